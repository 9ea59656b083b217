//! A container's environment, and the arguments that refer to it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{self as core, ConfigMap, Secret};
use kube::{Api, Client, ResourceExt as _};

use super::place::Place;

/// Names and values, in order.
pub type Environment = Vec<(String, String)>;

/// The environment of a container.
///
/// # Errors
/// What it refers to is not there.
pub async fn of(container: &core::Container, place: &Place, client: &Client) -> Result<Environment, String> {
    let (host, port) = &place.api_server;
    let mut environment = vec![
        ("PATH".to_owned(), PATH.to_owned()),
        ("HOSTNAME".to_owned(), place.pod.name_any()),
        ("KUBERNETES_SERVICE_HOST".to_owned(), host.clone()),
        ("KUBERNETES_SERVICE_PORT".to_owned(), port.clone()),
    ];
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.clone().unwrap_or_default();
        let map = match (&source.config_map_ref, &source.secret_ref) {
            (Some(reference), _) => config_map(place, client, &reference.name).await?,
            (_, Some(reference)) => secret(place, client, &reference.name).await?,
            _ => continue,
        };
        environment.extend(map.into_iter().map(|(key, value)| (format!("{prefix}{key}"), value)));
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (_, Some(source)) => from(source, place, client).await?,
            (Some(value), None) => Some(expanded(value, &environment)),
            (None, None) => Some(String::new()),
        };
        environment.retain(|(name, _)| *name != variable.name);
        environment.extend(value.map(|value| (variable.name.clone(), value)));
    }
    Ok(environment)
}

/// Text with each $(NAME) replaced by its value; a name that has none stays, and $$ is a $.
pub fn expanded(text: &str, environment: &Environment) -> String {
    let mut done = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        done.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.find(')').filter(|_| rest.starts_with("$("));
        let value = end.and_then(|end| {
            let name = &rest[2..end];
            environment
                .iter()
                .rfind(|(known, _)| known == name)
                .map(|(_, value)| (end + 1, value))
        });
        let (taken, put) = match value {
            Some((taken, value)) => (taken, value.as_str()),
            None if rest.starts_with("$$") => (2, "$"),
            None => (1, "$"),
        };
        done.push_str(put);
        rest = &rest[taken..];
    }
    done + rest
}

/// A field of a pod by its path, as the downward API has it.
///
/// # Errors
/// There is no such field.
pub fn field(path: &str, place: &Place) -> Result<String, String> {
    let metadata = &place.pod.metadata;
    let keyed = |map: &Option<BTreeMap<String, String>>, prefix: &str| {
        let key = path.strip_prefix(prefix)?.strip_suffix("']")?;
        Some(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default())
    };
    let spec = place.pod.spec.clone().unwrap_or_default();
    let value = match path {
        "metadata.name" => metadata.name.clone(),
        "metadata.namespace" => metadata.namespace.clone(),
        "metadata.uid" => metadata.uid.clone(),
        "spec.nodeName" => spec.node_name,
        "spec.serviceAccountName" => spec.service_account_name,
        "status.podIP" | "status.podIPs" => Some(place.ip.to_string()),
        "status.hostIP" | "status.hostIPs" => Some(place.node_ip.to_string()),
        _ => keyed(&metadata.labels, "metadata.labels['").or_else(|| keyed(&metadata.annotations, "metadata.annotations['")),
    };
    value.ok_or_else(|| format!("a pod has no field {path}"))
}

/// `None`: it is not there, and need not be.
async fn from(source: &core::EnvVarSource, place: &Place, client: &Client) -> Result<Option<String>, String> {
    if let Some(reference) = &source.field_ref {
        return field(&reference.field_path, place).map(Some);
    }
    let (map, key, optional) = if let Some(reference) = &source.config_map_key_ref {
        (
            config_map(place, client, &reference.name).await,
            &reference.key,
            reference.optional,
        )
    } else if let Some(reference) = &source.secret_key_ref {
        (
            secret(place, client, &reference.name).await,
            &reference.key,
            reference.optional,
        )
    } else {
        return Err("this source of a variable is not known here".to_owned());
    };
    match map.and_then(|map| map.get(key).cloned().ok_or_else(|| format!("there is no key {key}"))) {
        Ok(value) => Ok(Some(value)),
        Err(_) if optional == Some(true) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn config_map(place: &Place, client: &Client, name: &str) -> Result<BTreeMap<String, String>, String> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &place.namespace());
    let map = maps.get(name).await.map_err(|error| format!("ConfigMap {name}: {error}"))?;
    Ok(map.data.unwrap_or_default())
}

async fn secret(place: &Place, client: &Client, name: &str) -> Result<BTreeMap<String, String>, String> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &place.namespace());
    let secret = secrets.get(name).await.map_err(|error| format!("Secret {name}: {error}"))?;
    let data = secret.data.unwrap_or_default().into_iter();
    Ok(data
        .map(|(key, value)| (key, String::from_utf8_lossy(&value.0).into_owned()))
        .collect())
}

/// What images come with.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

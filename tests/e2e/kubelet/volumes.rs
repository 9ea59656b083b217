//! Volumes as directories: a ConfigMap, a Secret, a token, the pod's own fields, or nothing yet.
//!
//! Files appear as a kubelet makes them appear: a whole set at once, by a symbolic link that is replaced, so that whoever
//! follows a file sees the old set or the new one.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{ConfigMap, KeyToPath, Secret, ServiceAccount, ServiceAccountTokenProjection, Volume},
};
use kube::{Api, Client, api::PostParams};
use tokio::time::sleep;

use super::{environment::field, place::Place};

/// The directory of a volume.
pub fn directory(place: &Place, volume: &str) -> PathBuf {
    place.dir.join("volumes").join(volume)
}

/// Makes all volumes of a pod; waits for ConfigMaps and Secrets that are not there yet. Says each time what it waits for.
pub async fn make(place: &Place, client: &Client, waits: impl Fn(String)) {
    for volume in volumes(place) {
        let dir = directory(place, &volume.name);
        fs::create_dir_all(&dir).unwrap();
        if volume.empty_dir.is_some() {
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
            continue;
        }
        loop {
            match files(&volume, place, client, true).await {
                Ok(files) => break publish(&dir, &files).unwrap(),
                Err(error) => waits(format!("volume {}: {error}", volume.name)),
            }
            sleep(LOOK).await;
        }
    }
}

/// Keeps those up to date that can change, for ever.
pub async fn keep(place: &Place, client: &Client) {
    let changing: Vec<_> = volumes(place)
        .into_iter()
        .filter(|volume| volume.config_map.is_some() || volume.secret.is_some())
        .collect();
    if changing.is_empty() {
        return std::future::pending().await;
    }
    loop {
        sleep(LOOK).await;
        for volume in &changing {
            // What is gone or cannot be asked for stays as it was.
            if let Ok(files) = files(volume, place, client, false).await {
                publish(&directory(place, &volume.name), &files).unwrap();
            }
        }
    }
}

fn volumes(place: &Place) -> Vec<Volume> {
    place
        .pod
        .spec
        .as_ref()
        .and_then(|spec| spec.volumes.clone())
        .unwrap_or_default()
}

type Files = BTreeMap<String, Vec<u8>>;

async fn files(volume: &Volume, place: &Place, client: &Client, with_tokens: bool) -> Result<Files, String> {
    if let Some(map) = &volume.config_map {
        return config_map(place, client, &map.name, map.items.as_deref(), map.optional).await;
    }
    if let Some(secret) = &volume.secret {
        let name = secret.secret_name.clone().unwrap_or_default();
        return self::secret(place, client, &name, secret.items.as_deref(), secret.optional).await;
    }
    let mut files = Files::new();
    if let Some(downward) = &volume.downward_api {
        for item in downward.items.iter().flatten() {
            let path = item
                .field_ref
                .as_ref()
                .map(|reference| reference.field_path.as_str())
                .unwrap_or_default();
            files.insert(item.path.clone(), field(path, place)?.into_bytes());
        }
        return Ok(files);
    }
    let Some(projected) = &volume.projected else {
        return Err("this kind of volume is not known here".to_owned());
    };
    for source in projected.sources.iter().flatten() {
        if let Some(map) = &source.config_map {
            files.extend(config_map(place, client, &map.name, map.items.as_deref(), map.optional).await?);
        }
        if let Some(secret) = &source.secret {
            files.extend(self::secret(place, client, &secret.name, secret.items.as_deref(), secret.optional).await?);
        }
        if let Some(downward) = &source.downward_api {
            for item in downward.items.iter().flatten() {
                let path = item
                    .field_ref
                    .as_ref()
                    .map(|reference| reference.field_path.as_str())
                    .unwrap_or_default();
                files.insert(item.path.clone(), field(path, place)?.into_bytes());
            }
        }
        if let Some(token) = source.service_account_token.as_ref().filter(|_| with_tokens) {
            files.insert(token.path.clone(), self::token(token, place, client).await?);
        }
    }
    Ok(files)
}

/// A token of the pod's ServiceAccount, which is worth nothing once the pod is gone.
async fn token(token: &ServiceAccountTokenProjection, place: &Place, client: &Client) -> Result<Vec<u8>, String> {
    let spec = place.pod.spec.as_ref().unwrap();
    let account = spec.service_account_name.as_deref().unwrap_or("default");
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &place.namespace());
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: token.audience.clone().into_iter().collect(),
            expiration_seconds: token.expiration_seconds,
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: place.pod.metadata.name.clone(),
                uid: place.pod.metadata.uid.clone(),
            }),
        },
        ..TokenRequest::default()
    };
    let made = accounts.create_token_request(account, &PostParams::default(), &request).await;
    let made = made.map_err(|error| format!("a token of ServiceAccount {account}: {error}"))?;
    Ok(made.status.expect("a token").token.into_bytes())
}

async fn config_map(
    place: &Place,
    client: &Client,
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
) -> Result<Files, String> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &place.namespace());
    let map = maps.get_opt(name).await.map_err(|error| error.to_string())?;
    let Some(map) = map else {
        return if optional == Some(true) {
            Ok(Files::new())
        } else {
            Err(format!("there is no ConfigMap {name}"))
        };
    };
    let text = map
        .data
        .unwrap_or_default()
        .into_iter()
        .map(|(key, text)| (key, text.into_bytes()));
    let binary = map
        .binary_data
        .unwrap_or_default()
        .into_iter()
        .map(|(key, bytes)| (key, bytes.0));
    chosen(text.chain(binary).collect(), items)
}

async fn secret(
    place: &Place,
    client: &Client,
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
) -> Result<Files, String> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &place.namespace());
    let secret = secrets.get_opt(name).await.map_err(|error| error.to_string())?;
    let Some(secret) = secret else {
        return if optional == Some(true) {
            Ok(Files::new())
        } else {
            Err(format!("there is no Secret {name}"))
        };
    };
    let data = secret.data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0));
    chosen(data.collect(), items)
}

fn chosen(mut all: Files, items: Option<&[KeyToPath]>) -> Result<Files, String> {
    let Some(items) = items else { return Ok(all) };
    let of = |item: &KeyToPath| {
        let file = all.remove(&item.key).ok_or_else(|| format!("there is no key {}", item.key))?;
        Ok((item.path.clone(), file))
    };
    items.iter().map(of).collect()
}

/// Makes a directory have these files, all at once, unless it has them already.
fn publish(dir: &Path, files: &Files) -> io::Result<()> {
    let data = dir.join("..data");
    let same = |(path, text): (&String, &Vec<u8>)| fs::read(data.join(path)).is_ok_and(|now| now == *text);
    let names =
        |dir: &Path| fs::read_dir(dir).map(|entries| entries.flatten().map(|entry| entry.file_name()).collect::<Vec<_>>());
    if files.iter().all(same) && names(&data).is_ok_and(|names| names.len() == files.len()) {
        return Ok(());
    }
    let before = fs::read_link(&data).ok();
    let number: u64 = before
        .as_ref()
        .and_then(|name| name.to_str()?.strip_prefix("..")?.parse().ok())
        .unwrap_or(0);
    let name = format!("..{}", number + 1);
    for (path, text) in files {
        let file = dir.join(&name).join(path);
        fs::create_dir_all(file.parent().unwrap())?;
        fs::write(file, text)?;
    }
    fs::create_dir_all(dir.join(&name))?;
    symlink(&name, dir.join("..data_tmp"))?;
    fs::rename(dir.join("..data_tmp"), &data)?;
    let first = |path: &String| path.split('/').next().unwrap_or_default().to_owned();
    for path in files.keys().map(first) {
        if dir.join(&path).symlink_metadata().is_err() {
            symlink(Path::new("..data").join(&path), dir.join(&path))?;
        }
    }
    for entry in names(dir)?.iter().filter_map(|name| name.to_str()) {
        if !entry.starts_with("..") && !files.keys().any(|path| first(path) == entry) {
            fs::remove_file(dir.join(entry))?;
        }
    }
    before.map_or(Ok(()), |before| fs::remove_dir_all(dir.join(before)))
}

/// How often it is looked whether something has changed. A kubelet takes up to a minute and a half.
const LOOK: Duration = Duration::from_secs(1);

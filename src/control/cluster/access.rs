//! How the API server is reached.

use std::{env, path::PathBuf, time::Duration};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::control::watch::innermost;

/// Whose credentials are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Those of the ServiceAccount of the pod that this process runs in.
    Pod,
    /// Those of a kubeconfig file; without one, of the files that KUBECONFIG names.
    Kubeconfig {
        file: Option<PathBuf>,
        /// `None`: the current one.
        context: Option<String>,
    },
}

/// Why the API server cannot be asked anything.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error("cannot read the ServiceAccount's credentials: {0}; does the pod have automountServiceAccountToken: false?")]
    Pod(String),
    #[error("kubeconfig {file}: {reason}")]
    Kubeconfig { file: String, reason: String },
}

impl Access {
    /// What there is without a flag: a kubeconfig that KUBECONFIG names, else the pod's ServiceAccount. A kubeconfig that
    /// nobody named is not used: who starts a program does not mean whatever cluster they looked at last.
    #[must_use]
    pub fn of_environment(context: Option<&str>) -> Option<Self> {
        let named = env::var_os("KUBECONFIG").is_some_and(|files| !files.is_empty());
        if named || context.is_some() {
            return Some(Self::Kubeconfig {
                file: None,
                context: context.map(str::to_owned),
            });
        }
        env::var_os("KUBERNETES_SERVICE_HOST").map(|_| Self::Pod)
    }

    /// Checks what can be checked without asking anybody.
    ///
    /// # Errors
    /// When a kubeconfig cannot be read.
    pub fn check(&self) -> Result<(), AccessError> {
        match self {
            Self::Pod => Config::incluster()
                .map(drop)
                .map_err(|error| AccessError::Pod(innermost(&error))),
            Self::Kubeconfig { .. } => self.kubeconfig().map(drop),
        }
    }

    /// A client, which has not asked anything yet.
    ///
    /// # Errors
    /// When the credentials cannot be read or make no sense.
    pub async fn client(&self) -> Result<Client, AccessError> {
        let mut config = match self {
            Self::Pod => Config::incluster().map_err(|error| AccessError::Pod(innermost(&error)))?,
            Self::Kubeconfig { context, .. } => {
                let options = KubeConfigOptions {
                    context: context.clone(),
                    ..KubeConfigOptions::default()
                };
                Config::from_custom_kubeconfig(self.kubeconfig()?, &options)
                    .await
                    .map_err(|error| self.broken(&error))?
            }
        };
        config.connect_timeout = Some(CONNECT);
        config.write_timeout = Some(CONNECT);
        config.default_retry = false; // each caller waits in its own way
        Client::try_from(config).map_err(|error| self.broken(&error))
    }

    fn kubeconfig(&self) -> Result<Kubeconfig, AccessError> {
        let read = match self {
            Self::Kubeconfig { file: Some(file), .. } => Kubeconfig::read_from(file).map(Some),
            _ => Kubeconfig::from_env(),
        };
        let found = read.map_err(|error| self.broken(&error))?;
        found.map_or_else(|| Kubeconfig::read().map_err(|error| self.broken(&error)), Ok)
    }

    fn broken(&self, error: &dyn std::error::Error) -> AccessError {
        let file = match self {
            Self::Kubeconfig { file: Some(file), .. } => file.display().to_string(),
            _ => env::var("KUBECONFIG").unwrap_or_else(|_| "of the home directory".to_owned()),
        };
        AccessError::Kubeconfig {
            file,
            reason: innermost(error),
        }
    }
}

/// How long a connection to the API server may take to be made, and a request to leave.
const CONNECT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_that_cannot_be_read_is_named() {
        let access = Access::Kubeconfig {
            file: Some("/nowhere/kubeconfig".into()),
            context: None,
        };
        let error = access.check().unwrap_err().to_string();
        assert!(error.starts_with("kubeconfig /nowhere/kubeconfig: "), "{error}");
    }
}

//! What files come to, without a process that serves them: what `check` and `why` answer from.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::cli::Failure;
use crate::config::HostOwnership;
use crate::control::defaults::Defaults;
use crate::control::manifests::{self, Manifests};
use crate::control::object::Event;
use crate::control::{Built, Index, Judgement, Settings, Verdict, build, lookup};
use crate::routing::{ObjectName, Rule};

/// How the files are looked at: as a process with the same flags would.
#[derive(Debug, clap::Args)]
pub(super) struct View {
    /// Look at routes of this class; routes without a className belong to every class
    #[arg(long, value_name = "NAME", env = "HOLDFAST_CLASS", default_value = "holdfast")]
    pub(super) class: String,
    /// Who may add rules to a hostname: only the namespace of the oldest route that names it, or every namespace
    #[arg(
        long,
        value_name = "WHO",
        env = "HOLDFAST_HOST_OWNERSHIP",
        default_value = "namespace",
        ignore_case = true
    )]
    pub(super) host_ownership: HostOwnership,
    /// What holds for routes that say nothing: policies as in a spec
    #[arg(long, value_name = "FILE", env = "HOLDFAST_DEFAULTS")]
    pub(super) defaults: Option<PathBuf>,
}

/// Files, and the table they make.
#[derive(Debug)]
pub(super) struct Offline {
    pub(super) manifests: Manifests,
    pub(super) index: Index,
    pub(super) built: Built,
    pub(super) judgement: Judgement,
}

impl Offline {
    /// Reads files and folders. No name is resolved: see [`Offline::resolve`].
    pub(super) fn read(paths: &[PathBuf], view: &View) -> Result<Self, Failure> {
        let named = || {
            paths
                .iter()
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>()
                .join(", ")
        };
        let manifests = manifests::read(paths).map_err(|error| Failure::usage(format!("{}: {error}", named())))?;
        let defaults = view.defaults.as_deref().map_or(Ok(Defaults::default()), Defaults::read);
        let defaults = defaults.map_err(|error| Failure::usage(error.to_string()))?;
        let mut index = Index::new(Settings {
            class: view.class.clone(),
            share_hosts: view.host_ownership == HostOwnership::Shared,
            external_names: true,
            default_certificate: None,
            ticket_secret: None,
            defaults,
        });
        for (object, _) in &manifests.objects {
            index.apply(Event::Apply(object.clone()));
        }
        index.set_now(jiff::Timestamp::now().as_second());
        let built = build(&index);
        Ok(Self {
            judgement: Judgement::of(&index, &built.verdicts),
            manifests,
            index,
            built,
        })
    }

    /// Asks DNS for the names of ExternalName Services; those that have no answer have no endpoints.
    pub(super) async fn resolve(&mut self) {
        for host in self.index.external_hosts() {
            if let Ok(addresses) = lookup(&host).await {
                self.index.apply(Event::Resolved { host, addresses }); // endpoints only: the table holds their cells
            }
        }
    }

    pub(super) fn verdict(&self, route: &ObjectName) -> Option<&Verdict> {
        Some(&*self.judgement.get(route)?.verdict)
    }

    /// The compiled rules of each accepted route.
    pub(super) fn rules(&self) -> BTreeMap<&ObjectName, Vec<&Rule>> {
        let mut rules: BTreeMap<&ObjectName, Vec<&Rule>> = BTreeMap::new();
        for rule in self.built.table.rules() {
            rules.entry(&rule.id.route).or_default().push(rule);
        }
        rules
    }
}

/// `1 route`, `2 routes`.
pub(super) fn counted(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}

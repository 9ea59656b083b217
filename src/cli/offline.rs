//! What files come to, without a process that serves them: what `check` and `why` answer from.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use crate::cli::Failure;
use crate::config::HostOwnership;
use crate::control::defaults::Defaults;
use crate::control::manifests::{self, Manifests};
use crate::control::object::{Event, Key, Object, ObjectKind};
use crate::control::{Built, Index, Judgement, Listing, Settings, Verdict, build, lookup};
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
    /// What is there beside the files.
    pub(super) beside: Option<Beside>,
}

/// What a cluster has beside files.
#[derive(Debug)]
pub(super) struct Beside {
    /// Its own routes, as they are judged without the files.
    before: Judgement,
    /// Objects of the files, which go before those of the cluster.
    given: HashSet<Key>,
}

impl Offline {
    /// Reads files and folders. No name is resolved: see [`Offline::resolve`].
    pub(super) fn read(paths: &[PathBuf], view: &View) -> Result<Self, Failure> {
        let manifests = manifests(paths)?;
        let mut index = Index::new(view.settings(true)?);
        for (object, _) in &manifests.objects {
            index.apply(Event::Apply(object.clone()));
        }
        Ok(Self::of(manifests, index, None))
    }

    /// Reads files and folders, and adds what a cluster has: as if the files were applied to it.
    pub(super) fn beside(paths: &[PathBuf], view: &View, listing: Listing) -> Result<Self, Failure> {
        let manifests = manifests(paths)?;
        let settings = view.settings(false)?;
        let given: HashSet<Key> = manifests.objects.iter().map(|(object, _)| object.key()).collect();
        let (mut before, mut index) = (Index::new(settings.clone()), Index::new(settings));
        let mut created = BTreeMap::new();
        for object in listing.objects {
            if let Object::Route(route) = &object {
                created.insert(route.name.clone(), route.created);
            }
            if !given.contains(&object.key()) {
                index.apply(Event::Apply(object.clone()));
            }
            before.apply(Event::Apply(object));
        }
        let now = jiff::Timestamp::now().as_second();
        for (object, _) in &manifests.objects {
            let mut object = object.clone();
            if let Object::Route(route) = &mut object {
                // What is there keeps its age; what is not will be the youngest.
                let age = created.get(&route.name).copied().unwrap_or(now);
                Arc::make_mut(route).created = age;
            }
            index.apply(Event::Apply(object));
        }
        before.set_now(now);
        let before = Judgement::of(&before, &build(&before).verdicts);
        Ok(Self::of(manifests, index, Some(Beside { before, given })))
    }

    fn of(manifests: Manifests, mut index: Index, beside: Option<Beside>) -> Self {
        index.set_now(jiff::Timestamp::now().as_second());
        let built = build(&index);
        Self {
            judgement: Judgement::of(&index, &built.verdicts),
            manifests,
            index,
            built,
            beside,
        }
    }

    /// Whether a route is of the cluster, and not of the files.
    pub(super) fn is_of_cluster(&self, route: &ObjectName) -> bool {
        let key = Key {
            kind: ObjectKind::WebSocketRoute,
            name: route.clone(),
        };
        self.beside.as_ref().is_some_and(|beside| !beside.given.contains(&key))
    }

    /// Whether the files change what becomes of a route of the cluster.
    pub(super) fn is_changed(&self, route: &ObjectName) -> bool {
        let before = self.beside.as_ref().and_then(|beside| beside.before.get(route));
        before.map(|before| &*before.verdict) != self.verdict(route)
    }

    /// Routes of the cluster that the files do not have.
    pub(super) fn routes_beside(&self) -> usize {
        let routes = self.index.routes();
        routes.filter(|route| self.is_of_cluster(&route.name)).count()
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

impl View {
    fn settings(&self, external_names: bool) -> Result<Settings, Failure> {
        let defaults = self.defaults.as_deref().map_or(Ok(Defaults::default()), Defaults::read);
        Ok(Settings {
            class: self.class.clone(),
            share_hosts: self.host_ownership == HostOwnership::Shared,
            external_names,
            default_certificate: None,
            ticket_secret: None,
            defaults: defaults.map_err(|error| Failure::usage(error.to_string()))?,
        })
    }
}

fn manifests(paths: &[PathBuf]) -> Result<Manifests, Failure> {
    manifests::read(paths).map_err(|error| {
        let named: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        Failure::usage(format!("{}: {error}", named.join(", ")))
    })
}

/// `1 route`, `2 routes`.
pub(super) fn counted(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}

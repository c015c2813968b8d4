//! A compiled rule, and whether a request matches it.

use crate::Peer;
use crate::arguments::{ArgumentCause, Arguments, Observer};
use crate::bindings::{Bindings, IMAGE, NETNS, SlotKind};
use crate::image::{Reference, reference};
use crate::pattern::{Pattern, Template};
use crate::plan::{LaunchPlan, Mount, OnConflict, Ready, Settings, Source};
use crate::spelling::{has_hidden, is_path, is_relative_path};
use crate::targets::misplaced;
use portcullis_wire::{Launch, Reason};
use std::sync::Arc;
use std::time::Duration;

/// One `[[launch]]`.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) agent: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) command: Arc<str>,
    pub(crate) images: Box<[Pattern]>,
    pub(crate) netns: Box<[Pattern]>,
    pub(crate) arguments: Arguments,
    pub(crate) environment: Arguments,
    /// What the names may be, and what they are called, by slot.
    pub(crate) slots: Box<[SlotKind]>,
    pub(crate) names: Box<[Box<str>]>,
    pub(crate) container: Container,
    /// Whether lines of a spool may use it too.
    pub(crate) spool: bool,
}

/// What a rule makes of a request.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) name: Template,
    pub(crate) environment: Box<[Template]>,
    pub(crate) mounts: Box<[MountRule]>,
    pub(crate) ready: Option<(Template, Duration)>,
    pub(crate) on_conflict: OnConflict,
    pub(crate) settings: Arc<Settings>,
}

/// One mount of a rule.
#[derive(Debug)]
pub(crate) struct MountRule {
    /// The operator's part of the source; with no `rest` all of it.
    pub(crate) prefix: Box<str>,
    /// What is opened beneath that, where the source has a value in it.
    pub(crate) rest: Option<Template>,
    pub(crate) target: Template,
    pub(crate) read_only: bool,
    /// Whether it is read-only and nobody but the operator writes there, as far as the policy shows.
    pub(crate) operators: bool,
}

/// Why a request does not match a rule.
#[derive(Clone, Debug)]
pub(crate) struct Mismatch<'a> {
    pub(crate) cause: Cause,
    /// How far it came: the stage, and how much of it.
    pub(crate) progress: (u8, usize),
    pub(crate) bindings: Bindings<'a>,
}

/// What did not match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    ImageNotNamed,
    Image,
    NetnsMissing,
    NetnsUnwanted,
    NetnsForm,
    Netns,
    Argument(ArgumentCause),
    Environment(ArgumentCause),
    /// The entry at this position has a name that was there before.
    EnvironmentTwice(usize),
    Name(String),
    Mount(String),
    /// The first target is the second one, or beneath it.
    Misplaced(String, String),
}

impl Cause {
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::ImageNotNamed | Self::Image => Reason::Image,
            Self::NetnsMissing | Self::NetnsUnwanted | Self::NetnsForm | Self::Netns => {
                Reason::Netns
            }
            Self::Argument(_) => Reason::Argument,
            Self::Environment(_) | Self::EnvironmentTwice(_) => Reason::Environment,
            Self::Name(_) => Reason::Name,
            Self::Mount(_) | Self::Misplaced(..) => Reason::Mount,
        }
    }
}

/// Whether a namespace's name is one plain component, and nothing that podman could read otherwise.
fn is_plain_netns(name: &str) -> bool {
    (1..=255).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.starts_with('-')
        && !name.bytes().any(|byte| matches!(byte, b'/' | b':' | b','))
        && !has_hidden(name)
}

/// Whether podman takes this as a container's name.
pub(crate) fn is_container_name(name: &str) -> bool {
    let first = name.bytes().next();
    name.len() <= 128
        && first.is_some_and(|byte| byte.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// Whether podman would take the text apart.
fn has_separator(path: &str) -> bool {
    path.bytes().any(|byte| matches!(byte, b':' | b','))
}

/// Whether a path may stand in podman's `--volume`, where `:` and `,` separate.
fn is_mountable(path: &str) -> bool {
    is_path(path) && !has_separator(path)
}

impl Rule {
    /// Whether requests of this peer are tried with the rule: lines are with `spool = true` alone.
    pub(crate) fn is_for(&self, peer: &Peer) -> bool {
        self.spool || !matches!(peer, Peer::Spool { .. })
    }

    /// Matches a request, and makes the plan of it.
    ///
    /// # Errors
    /// The first thing that does not match.
    #[allow(
        clippy::result_large_err,
        reason = "it stays on the stack: a denial allocates no more than its message"
    )]
    pub(crate) fn matches<'a>(
        &'a self,
        request: &'a Launch,
        arguments: &mut impl Observer,
        environment: &mut impl Observer,
    ) -> Result<LaunchPlan, Mismatch<'a>> {
        let mut bindings = Bindings::default();
        match self.walk(request, &mut bindings, arguments, environment) {
            Ok(plan) => Ok(plan),
            Err((cause, stage, progress)) => Err(Mismatch {
                cause,
                progress: (stage, progress),
                bindings,
            }),
        }
    }

    fn walk<'a>(
        &'a self,
        request: &'a Launch,
        bindings: &mut Bindings<'a>,
        arguments: &mut impl Observer,
        environment: &mut impl Observer,
    ) -> Result<LaunchPlan, (Cause, u8, usize)> {
        self.match_image(request, bindings)
            .map_err(|cause| (cause, 0, 0))?;
        self.match_netns(request, bindings)
            .map_err(|cause| (cause, 1, 0))?;
        self.arguments
            .matches(&request.args, bindings, arguments)
            .map_err(|(cause, progress)| (Cause::Argument(cause), 2, progress))?;
        self.environment
            .matches(&request.env, bindings, environment)
            .map_err(|(cause, progress)| (Cause::Environment(cause), 3, progress))?;
        let name_of = |entry: &'a String| entry.split_once('=').map(|(name, _)| name);
        let twice = (0..request.env.len()).find(|at| {
            let name = request.env.get(*at).and_then(name_of);
            request
                .env
                .iter()
                .take(*at)
                .any(|before| name_of(before) == name)
        });
        if let Some(at) = twice {
            return Err((Cause::EnvironmentTwice(at), 3, at));
        }
        self.plan(request, bindings).map_err(|cause| (cause, 4, 0))
    }

    fn match_image<'a>(
        &'a self,
        request: &'a Launch,
        bindings: &mut Bindings<'a>,
    ) -> Result<(), Cause> {
        let image = match &request.image {
            Some(image) => {
                // Which image a short name means is up to what is on the host: the operator may write one, nobody else.
                let written = self.images.iter().any(|p| p.literal() == Some(image));
                let named = match reference(image) {
                    Some(Reference::Short) => written,
                    full => full.is_some(),
                };
                if !matches_any(&self.images, image, bindings) || !named {
                    return Err(Cause::Image);
                }
                image
            }
            None => self
                .images
                .first()
                .and_then(Pattern::literal)
                .ok_or(Cause::ImageNotNamed)?,
        };
        bindings
            .bind(IMAGE, image)
            .then_some(())
            .ok_or(Cause::Image)
    }

    fn match_netns<'a>(
        &'a self,
        request: &'a Launch,
        bindings: &mut Bindings<'a>,
    ) -> Result<(), Cause> {
        let Some(netns) = &request.netns else {
            return if self.netns.is_empty() {
                Ok(())
            } else {
                Err(Cause::NetnsMissing)
            };
        };
        if self.netns.is_empty() {
            return Err(Cause::NetnsUnwanted);
        }
        if !is_plain_netns(netns) {
            return Err(Cause::NetnsForm);
        }
        let matched = matches_any(&self.netns, netns, bindings) && bindings.bind(NETNS, netns);
        matched.then_some(()).ok_or(Cause::Netns)
    }

    fn plan(&self, request: &Launch, bindings: &Bindings<'_>) -> Result<LaunchPlan, Cause> {
        let container = &self.container;
        // Every name in a template has a value: compiling saw to it. If it did not, nothing is launched.
        let unbound = || Cause::Name(String::new());
        let name = container.name.expand(bindings).ok_or_else(unbound)?;
        if !is_container_name(&name) {
            return Err(Cause::Name(name));
        }
        let expand_path = |template: &Template| {
            let path = template.expand(bindings).ok_or_else(unbound)?;
            if is_mountable(&path) {
                Ok(path)
            } else {
                Err(Cause::Mount(path))
            }
        };
        let mut mounts = Vec::with_capacity(container.mounts.len());
        for mount in &container.mounts {
            let source = match &mount.rest {
                None => Source::Literal(mount.prefix.to_string()),
                Some(rest) => {
                    let rest = rest.expand(bindings).ok_or_else(unbound)?;
                    // A value of the kind `path` brings its own slash, which the prefix has had already.
                    let rest = match (&*mount.prefix, rest.strip_prefix('/')) {
                        ("/", Some(rest)) => rest.to_owned(),
                        _ => rest,
                    };
                    if !is_relative_path(&rest) || has_separator(&rest) {
                        return Err(Cause::Mount(rest));
                    }
                    Source::Beneath {
                        prefix: mount.prefix.to_string(),
                        rest,
                    }
                }
            };
            mounts.push(Mount {
                source,
                target: expand_path(&mount.target)?,
                read_only: mount.read_only,
            });
        }
        if let Some((target, other)) = misplaced(&container.mounts, &mounts) {
            return Err(Cause::Misplaced(target.to_owned(), other.to_owned()));
        }
        let ready = match &container.ready {
            None => None,
            Some((pid_file, timeout)) => Some(Ready {
                pid_file: expand_path(pid_file)?,
                timeout: *timeout,
            }),
        };
        let mut environment = Vec::with_capacity(container.environment.len() + request.env.len());
        for template in &container.environment {
            environment.push(template.expand(bindings).ok_or_else(unbound)?);
        }
        environment.extend(request.env.iter().cloned());
        Ok(LaunchPlan::new(
            self,
            name,
            bindings.get(IMAGE).unwrap_or_default().to_owned(),
            bindings.get(NETNS).map(str::to_owned),
            request.args.clone(),
            environment,
            mounts,
            ready,
        ))
    }
}

fn matches_any<'a>(patterns: &[Pattern], text: &'a str, bindings: &mut Bindings<'a>) -> bool {
    let before = *bindings;
    patterns.iter().any(|pattern| {
        *bindings = before;
        pattern.matches(text, bindings)
    })
}

//! What a launch is to be, and what came of it: the words between the loop and its workers.

use crate::container::Main;
use crate::engine::EngineError;
use crate::records::{Record, RecordError};
use crate::staging::StagingError;
use portcullis_policy::LaunchPlan;
use portcullis_wire::Reason;

/// The side container of ours that has the name already.
#[derive(Debug)]
pub struct Existing {
    /// Its launch record.
    pub record: Record,
    /// Its main process, seen again for this job; `None` when it has ended.
    pub main: Option<Main>,
    /// Its plan, where this life of the launcher knows it.
    pub plan: Option<Box<LaunchPlan>>,
}

/// What to launch.
#[derive(Debug)]
pub struct Job {
    /// The plan.
    pub plan: Box<LaunchPlan>,
    /// The plan's hash.
    pub hash: String,
    /// What has the name already.
    pub existing: Option<Existing>,
}

/// A side container that runs now, or ran already.
#[derive(Debug)]
pub struct Started {
    /// Its main process.
    pub main: Main,
    /// Its launch record.
    pub record: Record,
    /// The namespace it was launched into.
    pub netns: Option<(u64, u64)>,
    /// It ran already.
    pub reused: bool,
    /// When everything was resolved, staged and recorded.
    pub prepared: u64,
    /// When podman returned.
    pub podman: u64,
}

/// Why nothing runs.
#[derive(Debug)]
pub struct NotStarted {
    /// The code.
    pub reason: Reason,
    /// For the client.
    pub message: String,
    /// For the operator.
    pub detail: String,
    /// Asking again changes nothing.
    pub denied: bool,
    /// The exit code of a program that has ended already, and the end of its output.
    pub exited: Option<(u8, String)>,
    /// What of ours still has the name: nothing, unless stated.
    pub remains: Remains,
}

/// What a failed launch has left under the name.
#[derive(Debug)]
pub enum Remains {
    /// Nothing of ours.
    Nothing,
    /// What was there before.
    Existing(Box<Existing>),
    /// Nobody can say yet.
    Unknown,
}

impl NotStarted {
    pub(crate) fn new(reason: Reason, message: impl Into<String>, detail: impl ToString) -> Self {
        Self {
            reason,
            message: message.into(),
            detail: detail.to_string(),
            denied: false,
            exited: None,
            remains: Remains::Nothing,
        }
    }

    pub(crate) fn denied(self) -> Self {
        Self {
            denied: true,
            ..self
        }
    }

    pub(crate) fn with_existing(self, existing: Option<Existing>) -> Self {
        Self {
            remains: existing.map_or(Remains::Nothing, |old| Remains::Existing(Box::new(old))),
            ..self
        }
    }

    pub(crate) fn unknown(self) -> Self {
        Self {
            remains: Remains::Unknown,
            ..self
        }
    }
}

impl From<StagingError> for NotStarted {
    fn from(error: StagingError) -> Self {
        let reason = error.reason();
        Self::new(
            reason,
            format!("{}; the audit record says more", reason.text()),
            error,
        )
        .denied()
    }
}

pub(crate) fn internal(error: &RecordError) -> NotStarted {
    let message =
        "the launch could not be recorded, so it was not made; the launcher's log says why";
    NotStarted::new(Reason::Internal, message, error)
}

pub(crate) fn engine(error: &EngineError) -> NotStarted {
    let (reason, message) = match error {
        EngineError::Overdue { .. } => (Reason::Timeout, "podman did not answer in time"),
        EngineError::Hang { .. } => (
            Reason::Engine,
            "every podman hangs; the operator has to look at the engine",
        ),
        _ => (
            Reason::Engine,
            "podman failed; the audit record has its words",
        ),
    };
    NotStarted::new(reason, message, error)
}

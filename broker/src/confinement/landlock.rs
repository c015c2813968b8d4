//! The layer `landlock`: every right that Landlock knows is handled, and no rule grants any.
//!
//! What Landlock does not know (connecting to a socket by its path before ABI 9, chmod, stat) is left to seccomp.

use super::LayerError;
use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, Ruleset, RulesetAttr, RulesetStatus, Scope,
};

/// The newest ABI that is known here. On an older kernel, as much of it is handled as that kernel knows; what it grew by
/// since ABI 1 is beside the files: ports, signals, abstract sockets.
const NEWEST: ABI = ABI::V10;

/// Restricts the calling thread, for ever. Returns the ABI in force, at least 1.
///
/// # Errors
/// [`LayerError`], also when the kernel has no Landlock.
pub fn restrict() -> Result<u8, LayerError> {
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .restrict_self()?;
    let abi = match status.landlock {
        LandlockStatus::NotEnabled => {
            let why = "the kernel has Landlock, but it is not switched on (lsm=landlock,… on the kernel's command line)";
            return Err(LayerError::NotHeld(why.to_owned()));
        }
        LandlockStatus::NotImplemented => {
            return Err(LayerError::NotHeld("the kernel has no Landlock".to_owned()));
        }
        LandlockStatus::Available { effective_abi, .. } => effective_abi,
    };
    if status.ruleset == RulesetStatus::NotEnforced || abi < ABI::V1 {
        return Err(LayerError::NotHeld(
            "the kernel enforces nothing of it".to_owned(),
        ));
    }
    Ok(abi as u8)
}

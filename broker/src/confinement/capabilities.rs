//! The layer `capabilities`: none in the bounding, ambient, inheritable, permitted and effective set.

use super::LayerError;
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
};

/// Every capability that this kernel has, also those that have no name here.
fn each() -> impl Iterator<Item = CapabilitySet> {
    (0..64)
        .map(|number| CapabilitySet::from_bits_retain(1 << number))
        .take_while(|one| capability_is_in_bounding_set(*one) != Err(Errno::INVAL))
}

/// Takes every capability out of the bounding set. Needs CAP_SETPCAP, unless it is empty.
///
/// # Errors
/// [`LayerError`].
pub fn empty_bounding_set() -> Result<(), LayerError> {
    for one in each() {
        if capability_is_in_bounding_set(one) != Ok(false) {
            remove_capability_from_bounding_set(one)
                .map_err(LayerError::call("prctl(PR_CAPBSET_DROP)"))?;
        }
    }
    Ok(())
}

/// Empties the other sets and looks at all of them.
///
/// # Errors
/// [`LayerError`].
pub fn clear() -> Result<(), LayerError> {
    const NONE: CapabilitySets = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    clear_ambient_capability_set().map_err(LayerError::call("prctl(PR_CAP_AMBIENT)"))?;
    set_capabilities(None, NONE).map_err(LayerError::call("capset"))?;
    let held = capabilities(None).map_err(LayerError::call("capget"))?;
    if held != NONE || each().any(|one| capability_is_in_bounding_set(one) != Ok(false)) {
        return Err(LayerError::NotHeld("a set is not empty".to_owned()));
    }
    Ok(())
}

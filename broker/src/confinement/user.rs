//! The layer `user`: another user and group than root, no supplementary groups, and the proof that there is no way back.

use super::LayerError;
use rustix::process::{Gid, Uid, getegid, geteuid, getgid, getgroups, getuid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// Becomes that user, for the calling thread.
///
/// # Errors
/// [`LayerError`], also when the user or the group is root.
pub fn become_user(uid: u32, gid: u32) -> Result<(), LayerError> {
    if uid == 0 || gid == 0 || uid == u32::MAX || gid == u32::MAX {
        return Err(LayerError::NotHeld(format!(
            "user {uid} with group {gid} is no confinement"
        )));
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    if !getgroups().is_ok_and(|groups| groups.is_empty()) {
        set_thread_groups(&[]).map_err(LayerError::call("setgroups"))?;
    }
    set_thread_res_gid(gid, gid, gid).map_err(LayerError::call("setresgid"))?;
    set_thread_res_uid(uid, uid, uid).map_err(LayerError::call("setresuid"))?;
    verify(uid, gid)
}

fn verify(uid: Uid, gid: Gid) -> Result<(), LayerError> {
    if (getuid(), geteuid(), getgid(), getegid()) != (uid, uid, gid, gid) {
        return Err(LayerError::NotHeld(
            "the user or the group is still another one".to_owned(),
        ));
    }
    if !getgroups().is_ok_and(|groups| groups.is_empty()) {
        return Err(LayerError::NotHeld(
            "there still are supplementary groups".to_owned(),
        ));
    }
    let (root, wheel) = (Uid::ROOT, Gid::ROOT);
    if set_thread_res_uid(root, None, None).is_ok()
        || set_thread_res_uid(None, root, None).is_ok()
        || set_thread_res_gid(wheel, None, None).is_ok()
        || set_thread_res_gid(None, wheel, None).is_ok()
    {
        return Err(LayerError::NotHeld("root can be regained".to_owned()));
    }
    Ok(())
}

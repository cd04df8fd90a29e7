//! How a task's identity changes: setuid(2) and its family, capabilities(7) "Effect of user ID changes on capabilities", capset(2), and
//! "Transformation of capabilities during execve()".
//!
//! Pure: each rule takes the old [`Credentials`] and gives the new ones. `None` for an id stands for -1, "leave as it is".

use abi::Errno;
use std::sync::Arc;
use vfs::{Capability, CapabilitySet, Credentials};

/// Bits of prctl(PR_SET_SECUREBITS), `linux/securebits.h`. Each has a lock in the next bit.
pub mod securebits {
    pub const NOROOT: u32 = 1;
    pub const NO_SETUID_FIXUP: u32 = 1 << 2;
    pub const KEEP_CAPS: u32 = 1 << 4;
    pub const NO_CAP_AMBIENT_RAISE: u32 = 1 << 6;
    /// Every bit that exists.
    pub const ALL: u32 = 0xff;
    /// The locks.
    pub const LOCKS: u32 = 0xaa;
}

/// The capabilities that go with the file-system user id.
const FS_CAPABILITIES: u64 = 1 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 9 | 1 << 27 | 1 << 32;

/// Whether `from` may signal `to` by user ids alone, kill(2).
#[must_use]
pub fn may_signal(from: &Credentials, to: &Credentials) -> bool {
    [to.suid, to.uid].iter().any(|uid| *uid == from.euid || *uid == from.uid)
}

/// What user-id changes do to capabilities.
fn fix_capabilities(old: &Credentials, new: &mut Credentials) {
    if new.securebits & securebits::NO_SETUID_FIXUP != 0 {
        return;
    }
    let had_root = [old.uid, old.euid, old.suid].contains(&0);
    let has_root = [new.uid, new.euid, new.suid].contains(&0);
    if had_root && !has_root {
        if new.securebits & securebits::KEEP_CAPS == 0 {
            new.permitted = CapabilitySet::EMPTY;
            new.effective = CapabilitySet::EMPTY;
        }
        new.ambient = CapabilitySet::EMPTY;
    }
    if old.euid == 0 && new.euid != 0 {
        new.effective = CapabilitySet::EMPTY;
    }
    if old.euid != 0 && new.euid == 0 {
        new.effective = new.permitted;
    }
}

/// setuid(2).
pub fn setuid(old: &Credentials, uid: u32) -> Result<Credentials, Errno> {
    let mut new = old.clone();
    if old.has(Capability::SETUID) {
        (new.uid, new.suid) = (uid, uid);
    } else if uid != old.uid && uid != old.suid {
        return Err(Errno::EPERM);
    }
    (new.euid, new.fsuid) = (uid, uid);
    fix_capabilities(old, &mut new);
    Ok(new)
}

/// setgid(2).
pub fn setgid(old: &Credentials, gid: u32) -> Result<Credentials, Errno> {
    let mut new = old.clone();
    if old.has(Capability::SETGID) {
        (new.gid, new.sgid) = (gid, gid);
    } else if gid != old.gid && gid != old.sgid {
        return Err(Errno::EPERM);
    }
    (new.egid, new.fsgid) = (gid, gid);
    Ok(new)
}

/// setreuid(2).
pub fn setreuid(old: &Credentials, real: Option<u32>, effective: Option<u32>) -> Result<Credentials, Errno> {
    let mut new = old.clone();
    let free = old.has(Capability::SETUID);
    if let Some(uid) = real {
        if !free && uid != old.uid && uid != old.euid {
            return Err(Errno::EPERM);
        }
        new.uid = uid;
    }
    if let Some(uid) = effective {
        if !free && ![old.uid, old.euid, old.suid].contains(&uid) {
            return Err(Errno::EPERM);
        }
        new.euid = uid;
    }
    if real.is_some() || effective.is_some_and(|uid| uid != old.uid) {
        new.suid = new.euid;
    }
    new.fsuid = new.euid;
    fix_capabilities(old, &mut new);
    Ok(new)
}

/// setregid(2).
pub fn setregid(old: &Credentials, real: Option<u32>, effective: Option<u32>) -> Result<Credentials, Errno> {
    let mut new = old.clone();
    let free = old.has(Capability::SETGID);
    if let Some(gid) = real {
        if !free && gid != old.gid && gid != old.egid {
            return Err(Errno::EPERM);
        }
        new.gid = gid;
    }
    if let Some(gid) = effective {
        if !free && ![old.gid, old.egid, old.sgid].contains(&gid) {
            return Err(Errno::EPERM);
        }
        new.egid = gid;
    }
    if real.is_some() || effective.is_some_and(|gid| gid != old.gid) {
        new.sgid = new.egid;
    }
    new.fsgid = new.egid;
    Ok(new)
}

/// setresuid(2): real, effective, saved.
pub fn setresuid(old: &Credentials, ids: [Option<u32>; 3]) -> Result<Credentials, Errno> {
    let own = [old.uid, old.euid, old.suid];
    if !old.has(Capability::SETUID) && ids.iter().flatten().any(|id| !own.contains(id)) {
        return Err(Errno::EPERM);
    }
    let mut new = old.clone();
    new.uid = ids[0].unwrap_or(old.uid);
    new.euid = ids[1].unwrap_or(old.euid);
    new.suid = ids[2].unwrap_or(old.suid);
    new.fsuid = new.euid;
    fix_capabilities(old, &mut new);
    Ok(new)
}

/// setresgid(2): real, effective, saved.
pub fn setresgid(old: &Credentials, ids: [Option<u32>; 3]) -> Result<Credentials, Errno> {
    let own = [old.gid, old.egid, old.sgid];
    if !old.has(Capability::SETGID) && ids.iter().flatten().any(|id| !own.contains(id)) {
        return Err(Errno::EPERM);
    }
    let mut new = old.clone();
    new.gid = ids[0].unwrap_or(old.gid);
    new.egid = ids[1].unwrap_or(old.egid);
    new.sgid = ids[2].unwrap_or(old.sgid);
    new.fsgid = new.egid;
    Ok(new)
}

/// setfsuid(2). It has no errors: what it may not do it does not do.
#[must_use]
pub fn setfsuid(old: &Credentials, uid: u32) -> Credentials {
    let mut new = old.clone();
    if [old.uid, old.euid, old.suid, old.fsuid].contains(&uid) || old.has(Capability::SETUID) {
        new.fsuid = uid;
        if new.securebits & securebits::NO_SETUID_FIXUP == 0 {
            if old.fsuid == 0 && uid != 0 {
                new.effective.0 &= !FS_CAPABILITIES;
            }
            if old.fsuid != 0 && uid == 0 {
                new.effective.0 |= new.permitted.0 & FS_CAPABILITIES;
            }
        }
    }
    new
}

/// setfsgid(2).
#[must_use]
pub fn setfsgid(old: &Credentials, gid: u32) -> Credentials {
    let mut new = old.clone();
    if [old.gid, old.egid, old.sgid, old.fsgid].contains(&gid) || old.has(Capability::SETGID) {
        new.fsgid = gid;
    }
    new
}

/// setgroups(2).
pub fn setgroups(old: &Credentials, mut groups: Vec<u32>) -> Result<Credentials, Errno> {
    old.require(Capability::SETGID)?;
    groups.sort_unstable();
    let mut new = old.clone();
    new.groups = Arc::from(groups);
    Ok(new)
}

/// capset(2) on the caller itself.
pub fn capset(
    old: &Credentials,
    effective: CapabilitySet,
    permitted: CapabilitySet,
    inheritable: CapabilitySet,
) -> Result<Credentials, Errno> {
    let union = |a: CapabilitySet, b: CapabilitySet| CapabilitySet(a.0 | b.0);
    if !old.has(Capability::SETPCAP) && !inheritable.is_subset_of(union(old.inheritable, old.permitted)) {
        return Err(Errno::EPERM);
    }
    if !inheritable.is_subset_of(union(old.inheritable, old.bounding))
        || !permitted.is_subset_of(old.permitted)
        || !effective.is_subset_of(permitted)
    {
        return Err(Errno::EPERM);
    }
    let mut new = old.clone();
    (new.effective, new.permitted, new.inheritable) = (effective, permitted, inheritable);
    // What is not both permitted and inheritable can't be ambient.
    new.ambient.0 &= permitted.0 & inheritable.0;
    Ok(new)
}

/// What a program's file says about the identity it runs with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SetId {
    /// Owner of a set-user-id file.
    pub uid: Option<u32>,
    /// Group of a set-group-id file.
    pub gid: Option<u32>,
    /// File capabilities (`security.capability`): permitted, inheritable, and whether they are effective at once.
    pub capabilities: Option<(CapabilitySet, CapabilitySet, bool)>,
}

/// The identity after execve(2), and whether the program must not trust its surroundings (`AT_SECURE`). With `no_new_privs` set-id bits and file
/// capabilities are ignored.
#[must_use]
pub fn exec(old: &Credentials, mut file: SetId) -> (Credentials, bool) {
    if old.no_new_privs {
        file = SetId::default();
    }
    let mut new = old.clone();
    if let Some(uid) = file.uid {
        new.euid = uid;
    }
    if let Some(gid) = file.gid {
        new.egid = gid;
    }
    let mut file_permitted = CapabilitySet::EMPTY;
    let mut file_inheritable = CapabilitySet::EMPTY;
    let mut file_effective = false;
    if let Some((permitted, inheritable, effective)) = file.capabilities {
        (file_permitted, file_inheritable, file_effective) = (permitted, inheritable, effective);
    }
    // "Root" means every capability, unless securebits say otherwise; a set-user-id-root program with file capabilities run by another user gets
    // those only.
    let root_rules = new.securebits & securebits::NOROOT == 0 && !(file.capabilities.is_some() && new.uid != 0 && new.euid == 0);
    if root_rules && (new.euid == 0 || new.uid == 0) {
        (file_permitted, file_inheritable) = (CapabilitySet::FULL, CapabilitySet::FULL);
        file_effective |= new.euid == 0;
    }
    let privileged = file.capabilities.is_some() || file.uid.is_some() || file.gid.is_some();
    if privileged {
        new.ambient = CapabilitySet::EMPTY;
    }
    new.permitted = CapabilitySet((old.inheritable.0 & file_inheritable.0) | (file_permitted.0 & old.bounding.0) | new.ambient.0);
    new.effective = if file_effective { new.permitted } else { new.ambient };
    (new.suid, new.fsuid) = (new.euid, new.euid);
    (new.sgid, new.fsgid) = (new.egid, new.egid);
    new.securebits &= !securebits::KEEP_CAPS;
    let is_set_id = new.euid != old.uid || new.egid != old.gid || new.euid != new.uid || new.egid != new.gid;
    let gained = new.uid != 0 && (file_effective && !new.permitted.is_subset_of(new.ambient));
    (new, is_set_id || gained)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32) -> Credentials {
        Credentials::user(uid, uid, CapabilitySet::EMPTY)
    }

    #[test]
    fn root_that_becomes_a_user_loses_everything_and_can_not_go_back() {
        let new = setuid(&Credentials::root(), 1000).unwrap();
        assert_eq!((new.uid, new.euid, new.suid, new.fsuid), (1000, 1000, 1000, 1000));
        assert_eq!((new.permitted, new.effective), (CapabilitySet::EMPTY, CapabilitySet::EMPTY));
        assert_eq!(setuid(&new, 0), Err(Errno::EPERM));
    }

    #[test]
    fn root_that_lends_its_effective_id_can_take_it_back() {
        let lent = setresuid(&Credentials::root(), [None, Some(1000), None]).unwrap();
        assert_eq!((lent.effective, lent.permitted), (CapabilitySet::EMPTY, CapabilitySet::FULL));
        let back = setuid(&lent, 0).unwrap();
        assert_eq!((back.euid, back.effective), (0, CapabilitySet::FULL));
    }

    #[test]
    fn keepcaps_keeps_what_is_permitted() {
        let root = Credentials { securebits: securebits::KEEP_CAPS, ..Credentials::root() };
        let new = setuid(&root, 5).unwrap();
        assert_eq!((new.permitted, new.effective), (CapabilitySet::FULL, CapabilitySet::EMPTY));
        let fixed = Credentials { securebits: securebits::NO_SETUID_FIXUP, ..Credentials::root() };
        assert_eq!(setuid(&fixed, 5).unwrap().effective, CapabilitySet::FULL);
    }

    #[test]
    fn a_user_may_only_choose_among_its_own_ids() {
        let old = Credentials { euid: 2, suid: 3, ..user(1) };
        for (result, allowed) in [
            (setreuid(&old, Some(2), Some(1)).map(|c| (c.uid, c.euid, c.suid)), Some((2, 1, 1))),
            (setreuid(&old, Some(3), None).map(|c| (c.uid, c.euid, c.suid)), None),
            (setreuid(&old, None, Some(3)).map(|c| (c.uid, c.euid, c.suid)), Some((1, 3, 3))),
            (setresuid(&old, [Some(3), Some(1), Some(2)]).map(|c| (c.uid, c.euid, c.suid)), Some((3, 1, 2))),
            (setresuid(&old, [None, Some(9), None]).map(|c| (c.uid, c.euid, c.suid)), None),
        ] {
            assert_eq!(result.ok(), allowed);
        }
        assert_eq!((setfsuid(&old, 3).fsuid, setfsuid(&old, 9).fsuid), (3, 1));
        assert_eq!(setgroups(&old, vec![5]), Err(Errno::EPERM));
    }

    #[test]
    fn signals_go_where_a_user_id_matches() {
        assert!(may_signal(&user(1), &user(1)));
        assert!(!may_signal(&user(1), &user(2)));
        assert!(may_signal(&user(1), &Credentials { suid: 1, ..user(2) }));
        assert!(!may_signal(&user(1), &Credentials { euid: 1, ..user(2) }));
    }

    #[test]
    fn exec_of_a_set_id_file_gives_its_owner_s_rights_and_is_not_to_be_trusted() {
        let (new, secure) = exec(&user(1000), SetId { uid: Some(0), ..SetId::default() });
        assert_eq!((new.uid, new.euid, new.suid), (1000, 0, 0));
        assert!(secure && new.effective == CapabilitySet::FULL);
        let (new, secure) = exec(&Credentials { no_new_privs: true, ..user(1000) }, SetId { uid: Some(0), ..SetId::default() });
        assert!(!secure && new.euid == 1000 && new.effective == CapabilitySet::EMPTY);
    }

    #[test]
    fn exec_gives_root_what_its_bounding_set_allows_and_others_what_is_ambient() {
        let bounded = Credentials { bounding: CapabilitySet(7), ..Credentials::root() };
        assert_eq!(exec(&bounded, SetId::default()).0.effective, CapabilitySet(7));
        let ambient = Credentials { ambient: CapabilitySet(4), inheritable: CapabilitySet(4), permitted: CapabilitySet(6), ..user(9) };
        let (new, secure) = exec(&ambient, SetId::default());
        assert_eq!((new.permitted, new.effective), (CapabilitySet(4), CapabilitySet(4)));
        assert!(!secure);
        let file = SetId { capabilities: Some((CapabilitySet(8), CapabilitySet::EMPTY, true)), ..SetId::default() };
        let (new, secure) = exec(&ambient, file);
        assert_eq!((new.permitted, new.effective, new.ambient), (CapabilitySet(8), CapabilitySet(8), CapabilitySet::EMPTY));
        assert!(secure);
    }

    #[test]
    fn capset_only_takes_away() {
        let old = Credentials { permitted: CapabilitySet(6), effective: CapabilitySet(2), ..user(9) };
        assert!(capset(&old, CapabilitySet(4), CapabilitySet(4), CapabilitySet::EMPTY).is_ok());
        assert!(capset(&old, CapabilitySet(1), CapabilitySet(6), CapabilitySet::EMPTY).is_err());
        assert!(capset(&old, CapabilitySet(8), CapabilitySet(14), CapabilitySet::EMPTY).is_err());
        assert!(capset(&old, CapabilitySet(0), CapabilitySet(6), CapabilitySet(16)).is_err());
    }
}

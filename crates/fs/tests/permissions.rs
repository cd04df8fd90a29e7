//! Who may do what: modes, capabilities, stickiness, set-id bits, access-control lists. path_resolution(7), inode(7), acl(5).

mod common;

use abi::{Errno, SysError};
use common::{Machine, write};
use std::sync::Arc;
use vfs::{
    Access, Acl, Capability, CapabilitySet, Credentials, LookupFlags, OpenFlags, OpenHow, Path, PathAt, RenameFlags, SetTime, Timestamp,
    XattrMode,
};

fn path(m: &Machine, path: &str) -> Path {
    m.caller().lookup(PathAt::cwd(path.as_bytes()), LookupFlags::FOLLOW).unwrap()
}
fn chmod(m: &Machine, name: &str, mode: u32) -> Result<(), Errno> {
    m.caller().chmod(&path(m, name), mode)
}
fn chown(m: &Machine, name: &str, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
    m.caller().chown(&path(m, name), uid, gid)
}
fn with(m: &Machine, uid: u32, capability: Capability) -> Machine {
    let credentials = Arc::new(Credentials::user(uid, uid, CapabilitySet(1 << capability.0)));
    Machine { credentials, ..m.user(uid, uid) }
}

/// /f of user 1 and group 2, with a mode.
fn file_of_1_2(mode: u32) -> Machine {
    let m = Machine::new();
    m.write("/f", b"data").unwrap();
    chown(&m, "/f", Some(1), Some(2)).unwrap();
    chmod(&m, "/f", mode).unwrap();
    m
}

#[test]
fn the_first_class_that_fits_decides() {
    type Row = (u32, u32, u32, OpenFlags, Result<(), Errno>);
    let rows: [Row; 11] = [
        (0o400, 1, 9, OpenFlags::empty(), Ok(())),
        (0o400, 1, 9, OpenFlags::WRONLY, Err(Errno::EACCES)),
        (0o046, 1, 9, OpenFlags::empty(), Err(Errno::EACCES)),
        (0o040, 5, 2, OpenFlags::empty(), Ok(())),
        (0o406, 5, 2, OpenFlags::empty(), Err(Errno::EACCES)),
        (0o004, 5, 9, OpenFlags::empty(), Ok(())),
        (0o440, 5, 9, OpenFlags::empty(), Err(Errno::EACCES)),
        (0o004, 5, 9, OpenFlags::RDWR, Err(Errno::EACCES)),
        (0o006, 5, 9, OpenFlags::RDWR, Ok(())),
        (0o000, 5, 9, OpenFlags::PATH, Ok(())),
        (0o004, 5, 9, OpenFlags::TRUNC, Err(Errno::EACCES)),
    ];
    for (mode, uid, gid, flags, expected) in rows {
        let got = file_of_1_2(mode).user(uid, gid).open("/f", flags).map(drop).map_err(SysError::errno);
        assert_eq!(got, expected, "mode {mode:o} uid {uid} gid {gid} {flags:?}");
    }
}

#[test]
fn capabilities_override_but_execution_needs_one_x() {
    let m = file_of_1_2(0o000);
    let want = |m: &Machine, access| m.caller().access(PathAt::cwd(b"/f"), access, true, LookupFlags::FOLLOW).map_err(SysError::errno);
    let all = with(&m, 5, Capability::DAC_OVERRIDE);
    assert_eq!(want(&all, Access::READ | Access::WRITE), Ok(()));
    assert_eq!(want(&all, Access::EXEC), Err(Errno::EACCES));
    let search = with(&m, 5, Capability::DAC_READ_SEARCH);
    assert_eq!(want(&search, Access::READ), Ok(()));
    assert_eq!(want(&search, Access::WRITE), Err(Errno::EACCES));
    chmod(&m, "/f", 0o001).unwrap();
    assert_eq!(want(&all, Access::EXEC), Ok(()));
    m.mkdir("/d").unwrap();
    m.write("/d/in", b"").unwrap();
    chmod(&m, "/d", 0o000).unwrap();
    assert_eq!(m.user(5, 5).stat("/d/in").unwrap_err(), Errno::EACCES);
    assert!(search.stat("/d/in").is_ok());
    assert_eq!(search.write("/d/new", b"").unwrap_err(), Errno::EACCES);
    assert!(all.write("/d/new", b"").is_ok());
}

#[test]
fn access_asks_for_the_real_user() {
    let m = file_of_1_2(0o600);
    let mut setuid = Credentials::user(1, 2, CapabilitySet::EMPTY);
    setuid.uid = 7;
    let m = Machine { credentials: Arc::new(setuid), ..m };
    let ask = |effective| m.caller().access(PathAt::cwd(b"/f"), Access::READ, effective, LookupFlags::FOLLOW).map_err(SysError::errno);
    assert_eq!(ask(true), Ok(()));
    assert_eq!(ask(false), Err(Errno::EACCES));
}

#[test]
fn in_a_sticky_directory_only_owners_remove() {
    let m = Machine::new();
    m.mkdir("/tmp").unwrap();
    chmod(&m, "/tmp", 0o1777).unwrap();
    let (one, two) = (m.user(1, 1), m.user(2, 2));
    one.write("/tmp/f", b"").unwrap();
    two.write("/tmp/g", b"").unwrap();
    assert_eq!(two.unlink("/tmp/f").unwrap_err(), Errno::EPERM);
    assert_eq!(two.rename("/tmp/f", "/tmp/h").unwrap_err(), Errno::EPERM);
    assert_eq!(two.rename("/tmp/g", "/tmp/f").unwrap_err(), Errno::EPERM);
    let exchange = two.caller().rename(PathAt::cwd(b"/tmp/g"), PathAt::cwd(b"/tmp/f"), RenameFlags::EXCHANGE);
    assert_eq!(exchange.unwrap_err().errno(), Errno::EPERM);
    with(&m, 2, Capability::FOWNER).unlink("/tmp/f").unwrap();
    two.unlink("/tmp/g").unwrap();
}

#[test]
fn owners_change_modes_and_give_to_their_groups_only() {
    let m = file_of_1_2(0o644);
    let one = m.user(1, 2);
    assert_eq!(chmod(&m.user(5, 2), "/f", 0o600).unwrap_err(), Errno::EPERM);
    chmod(&one, "/f", 0o6755).unwrap();
    assert_eq!(m.stat("/f").unwrap().mode, 0o6755);
    chmod(&m.user(1, 9), "/f", 0o6755).unwrap();
    assert_eq!(m.stat("/f").unwrap().mode, 0o4755, "set-group-ID needs the group");
    assert_eq!(chown(&one, "/f", Some(5), None).unwrap_err(), Errno::EPERM);
    assert_eq!(chown(&one, "/f", None, Some(5)).unwrap_err(), Errno::EPERM);
    chown(&one, "/f", None, Some(2)).unwrap();
    assert_eq!(m.stat("/f").unwrap().mode, 0o755, "chown takes set-id bits");
    chmod(&m, "/f", 0o6755).unwrap();
    chown(&m, "/f", Some(5), None).unwrap();
    assert_eq!(m.stat("/f").unwrap().mode, 0o755, "root's too");
}

#[test]
fn writing_and_truncating_take_set_id_bits_from_the_unprivileged() {
    let m = file_of_1_2(0o6777);
    let file = m.user(5, 5).open("/f", OpenFlags::WRONLY).unwrap();
    write(&file, b"x").unwrap();
    assert_eq!(m.stat("/f").unwrap().mode, 0o777);
    chmod(&m, "/f", 0o4777).unwrap();
    m.user(5, 5).open("/f", OpenFlags::WRONLY | OpenFlags::TRUNC).unwrap();
    assert_eq!(m.stat("/f").unwrap().mode, 0o777);
    chmod(&m, "/f", 0o4777).unwrap();
    write(&m.open("/f", OpenFlags::WRONLY).unwrap(), b"x").unwrap();
    assert_eq!(m.stat("/f").unwrap().mode, 0o4777, "CAP_FSETID keeps them");
}

#[test]
fn times_are_set_to_now_by_writers_and_to_anything_by_owners() {
    let m = file_of_1_2(0o666);
    let at = SetTime::At(Timestamp { sec: 1, nsec: 2 });
    let other = m.user(5, 5);
    let set = |m: &Machine, a, b| m.caller().utimens(&path(m, "/f"), a, b);
    set(&other, SetTime::Now, SetTime::Now).unwrap();
    assert_eq!(set(&other, at, SetTime::Omit).unwrap_err(), Errno::EPERM);
    assert_eq!(set(&other, SetTime::Now, SetTime::Omit).unwrap_err(), Errno::EPERM);
    chmod(&m, "/f", 0o644).unwrap();
    assert_eq!(set(&other, SetTime::Now, SetTime::Now).unwrap_err(), Errno::EACCES);
    set(&m.user(1, 1), at, SetTime::Omit).unwrap();
    assert_eq!(m.stat("/f").unwrap().accessed, Timestamp { sec: 1, nsec: 2 });
}

#[test]
fn new_files_take_umask_and_a_set_group_id_directorys_group() {
    let m = Machine::new();
    m.mkdir("/d").unwrap();
    chown(&m, "/d", None, Some(42)).unwrap();
    chmod(&m, "/d", 0o2777).unwrap();
    let one = m.user(1, 1);
    one.fs.set_umask(0o027);
    one.caller().open(PathAt::cwd(b"/d/f"), OpenHow::new(OpenFlags::CREAT, 0o6777)).unwrap();
    one.mkdir("/d/sub").unwrap();
    let (f, sub) = (m.stat("/d/f").unwrap(), m.stat("/d/sub").unwrap());
    assert_eq!((f.gid, f.mode), (42, 0o4750), "a stranger to the group gets no set-group-ID file");
    assert_eq!((sub.gid, sub.mode), (42, 0o2750));
}

#[test]
fn protected_links_are_refused_once_asked_for() {
    let m = file_of_1_2(0o644);
    m.mkdir("/tmp").unwrap();
    chmod(&m, "/tmp", 0o1777).unwrap();
    let (five, six) = (m.user(5, 5), m.user(6, 6));
    five.symlink("/f", "/tmp/l").unwrap();
    assert!(six.stat("/tmp/l").is_ok());
    six.link("/f", "/tmp/hard").unwrap();
    let on = std::sync::atomic::Ordering::Relaxed;
    m.vfs.protections.symlinks.store(1, on);
    m.vfs.protections.hardlinks.store(1, on);
    m.vfs.protections.regular.store(1, on);
    assert_eq!(six.stat("/tmp/l").unwrap_err(), Errno::EACCES);
    assert!(five.stat("/tmp/l").is_ok());
    assert_eq!(six.link("/f", "/tmp/other").unwrap_err(), Errno::EPERM);
    five.write("/tmp/x", b"").unwrap();
    chmod(&five, "/tmp/x", 0o666).unwrap();
    assert_eq!(six.write("/tmp/x", b"").unwrap_err(), Errno::EACCES);
    assert!(six.open("/tmp/x", OpenFlags::WRONLY).is_ok(), "only with O_CREAT");
}

/// An access-control list: version 2, then entries of tag, permissions and id.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, allowed, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(allowed.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

#[test]
fn an_access_control_list_names_users_and_its_mask_shows_as_the_groups_bits() {
    const NONE: u32 = u32::MAX;
    let m = file_of_1_2(0o640);
    let list = acl(&[(1, 6, NONE), (2, 7, 50), (4, 4, NONE), (8, 6, 60), (16, 6, NONE), (32, 0, NONE)]);
    m.caller().set_xattr(&path(&m, "/f"), Acl::ACCESS, &list, XattrMode::Set).unwrap();
    assert_eq!(m.stat("/f").unwrap().mode, 0o660);
    let open = |uid, gid, flags| m.user(uid, gid).open("/f", flags).map(drop).map_err(SysError::errno);
    assert_eq!(open(50, 9, OpenFlags::RDWR), Ok(()));
    assert_eq!(open(51, 60, OpenFlags::RDWR), Ok(()));
    assert_eq!(open(51, 2, OpenFlags::RDWR), Err(Errno::EACCES));
    assert_eq!(open(51, 9, OpenFlags::empty()), Err(Errno::EACCES));
    chmod(&m, "/f", 0o640).unwrap();
    assert_eq!(open(50, 9, OpenFlags::RDWR), Err(Errno::EACCES), "chmod changed the mask");
    assert_eq!(open(50, 9, OpenFlags::empty()), Ok(()));
    m.mkdir("/d").unwrap();
    let default = acl(&[(1, 7, NONE), (2, 6, 50), (4, 0, NONE), (16, 7, NONE), (32, 0, NONE)]);
    m.caller().set_xattr(&path(&m, "/d"), Acl::DEFAULT, &default, XattrMode::Set).unwrap();
    chmod(&m, "/d", 0o777).unwrap();
    m.fs.set_umask(0o777);
    m.caller().open(PathAt::cwd(b"/d/f"), OpenHow::new(OpenFlags::CREAT, 0o666)).unwrap();
    assert_eq!(m.stat("/d/f").unwrap().mode, 0o660, "a default list stands in for the umask");
    assert!(m.user(50, 9).open("/d/f", OpenFlags::RDWR).is_ok());
    for bad in [&b""[..], &list[..20], &acl(&[(1, 6, NONE)]), &acl(&[(1, 9, NONE), (4, 0, NONE), (32, 0, NONE)])] {
        assert_eq!(m.caller().set_xattr(&path(&m, "/f"), Acl::ACCESS, bad, XattrMode::Set).unwrap_err(), Errno::EINVAL);
    }
}

#[test]
fn extended_attributes_keep_to_their_name_spaces() {
    let m = file_of_1_2(0o644);
    let one = m.user(1, 2);
    let set = |m: &Machine, name: &str, mode| m.caller().set_xattr(&path(m, "/f"), name.as_bytes(), b"v", mode);
    set(&one, "user.a", XattrMode::Create).unwrap();
    assert_eq!(set(&one, "user.a", XattrMode::Create).unwrap_err(), Errno::EEXIST);
    assert_eq!(set(&one, "user.b", XattrMode::Replace).unwrap_err(), Errno::ENODATA);
    assert_eq!(set(&one, "trusted.a", XattrMode::Set).unwrap_err(), Errno::EPERM);
    assert_eq!(set(&one, "nowhere.a", XattrMode::Set).unwrap_err(), Errno::EOPNOTSUPP);
    assert_eq!(set(&one, "user.", XattrMode::Set).unwrap_err(), Errno::EINVAL);
    assert_eq!(set(&m.user(5, 5), "user.c", XattrMode::Set).unwrap_err(), Errno::EACCES);
    set(&m, "trusted.a", XattrMode::Set).unwrap();
    let names = |m: &Machine| m.caller().list_xattr(&path(m, "/f")).unwrap().len();
    assert_eq!((names(&m), names(&one)), (2, 1));
    assert_eq!(m.caller().get_xattr(&path(&m, "/f"), b"user.a").unwrap(), b"v");
    m.caller().remove_xattr(&path(&m, "/f"), b"user.a").unwrap();
    assert_eq!(m.caller().get_xattr(&path(&m, "/f"), b"user.a").unwrap_err(), Errno::ENODATA);
}

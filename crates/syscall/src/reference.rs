//! `docs/syscalls.md`: what each system call does here, made from the table. `UMLAUT_WRITE_DOCS=1 cargo test -p syscall` writes it anew.

use crate::table::{ABSENT, NUMBERS};
use std::fmt::Write;
use std::path::PathBuf;

/// What handlers leave out of what Linux does, by number.
const PARTIAL: &[(u64, &str)] = &[
    (9, "MAP_HUGETLB finds no pages set aside; MAP_SYNC is refused"),
    (56, "namespaces other than mount and UTS namespaces are EINVAL"),
    (101, "no debug registers, no PTRACE_PEEKSIGINFO, no filters of seccomp to be read; any thread of the tracer may ask"),
    (144, "policies and priorities are kept and not obeyed"),
    (155, "every process is looked at, not only those of the mount namespace"),
    (157, "options about speculation, machine checks, memory maps, timing and schedulers' cores are EINVAL"),
    (160, "RLIMIT_RSS, RLIMIT_RTTIME and RLIMIT_LOCKS are kept and not obeyed"),
    (165, "file systems that need a module are ENODEV"),
    (203, "affinities are kept and not obeyed"),
    (221, "advice is checked and not needed"),
    (272, "namespaces other than mount and UTS namespaces are EINVAL"),
    (303, "EOPNOTSUPP on every file system"),
    (308, "namespaces cannot be entered"),
    (314, "policies are kept and not obeyed"),
    (317, "no listener: SECCOMP_RET_USER_NOTIF is ENOSYS for the caller"),
    (324, "no restartable sequences"),
    (435, "namespaces other than mount and UTS namespaces, and set_tid, are EINVAL"),
];

fn reference() -> String {
    let mut text = String::from(
        "# System calls\n\nThe x86-64 table as it is answered here. Made from `crates/syscall/src/table.rs` and `reference.rs` by the tests of the \\\ncrate; do not edit. \"There\" means that there is a handler, with what it is known to leave out; \"off\" names the errno of a kernel without the \\\ncall.\n\n",
    )
    .replace(" \\\n", "\n");
    let (there, off) = (NUMBERS.len(), ABSENT.len());
    let partial = PARTIAL.len();
    let _ = write!(
        text,
        "{there} calls are there, {partial} of them in part; {off} are off.\n\n| number | call | state | what is missing |\n|---|---|---|---|\n"
    );
    let mut rows: Vec<(u64, String)> = NUMBERS
        .iter()
        .map(|(number, name)| {
            let missing = PARTIAL.iter().find(|(partial, _)| partial == number).map(|(_, missing)| *missing);
            let state = if missing.is_some() { "partial" } else { "there" };
            (*number, format!("| {number} | {name} | {state} | {} |\n", missing.unwrap_or_default()))
        })
        .chain(ABSENT.iter().map(|(number, name, errno)| (*number, format!("| {number} | {name} | off | {errno:?} |\n"))))
        .collect();
    rows.sort();
    rows.into_iter().for_each(|(_, row)| text.push_str(&row));
    text
}

#[test]
fn the_page_of_system_calls_is_that_of_the_table() {
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/syscalls.md");
    let wanted = reference();
    if std::env::var_os("UMLAUT_WRITE_DOCS").is_some() {
        assert!(std::fs::write(&page, &wanted).is_ok(), "docs/syscalls.md can be written");
    }
    let found = std::fs::read_to_string(&page).unwrap_or_default();
    assert!(found == wanted, "docs/syscalls.md is not that of the table: UMLAUT_WRITE_DOCS=1 cargo test -p syscall");
    assert!(PARTIAL.iter().all(|(number, _)| NUMBERS.iter().any(|(there, _)| there == number)), "what is partial is there");
}

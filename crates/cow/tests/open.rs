//! Which backing file is used, and what the log says: as recorded from UML 6.1.

mod common;

use abi::Errno;
use common::Names;
use cow::open::{check, choose_backing, creating_message, new_header, unreadable_header_message};
use cow::{Header, HeaderError, MemoryStorage};

const SIZE: u64 = 1 << 20;

/// What it is, the name asked for, the host's names, the result, the path then stored, the log.
type Case<'a> = (&'a str, Option<&'a str>, Names, Result<(), Errno>, &'a str, &'a [&'a str]);

/// Opens `c.cow`, made for `/roots/debian` of 1 MiB with mtime 100, and gives the result, the path then in the file, and the log.
fn open(requested: Option<&str>, names: &Names) -> (Result<(), Errno>, String, Vec<String>) {
    let mut header = Header::new(b"/roots/debian".to_vec(), SIZE, 100);
    let file = MemoryStorage::default();
    header.create(&file).unwrap();
    let mut log = Vec::new();
    let requested = requested.map(str::as_bytes);
    let result = choose_backing(&mut header, &file, "c.cow", requested, names, &mut |line| log.push(line));
    let stored = Header::read(&file).unwrap();
    assert_eq!(stored, header);
    (result.map_err(|error| error.errno()), String::from_utf8(stored.backing_path).unwrap(), log)
}

#[test]
fn the_backing_file_is_chosen_by_the_rules_of_the_reference() {
    let good = || Names::default().with("/roots/debian", SIZE, 100, 1);
    let mismatch = "Backing file mismatch - \"new\" requested, \"/roots/debian\" specified in COW header of \"c.cow\"";
    let table: &[Case] = &[
        ("named alone", None, good(), Ok(()), "/roots/debian", &[]),
        ("same name", Some("/roots/debian"), good(), Ok(()), "/roots/debian", &[]),
        ("same inode", Some("link"), good().with("/home/link", SIZE, 100, 1), Ok(()), "/roots/debian", &[]),
        (
            "a copy",
            Some("new"),
            good().with("/home/new", SIZE, 100, 2),
            Ok(()),
            "/home/new",
            &[mismatch, "Switching backing file to 'new'"],
        ),
        (
            "another mtime",
            Some("new"),
            good().with("/home/new", SIZE, 101, 2),
            Ok(()),
            "/roots/debian",
            &[mismatch, "mtime mismatch (100 vs 101) of COW header vs backing file"],
        ),
        (
            "another size",
            Some("new"),
            good().with("/home/new", 5, 101, 2),
            Ok(()),
            "/roots/debian",
            &[mismatch, "Size mismatch (1048576 vs 5) of COW header vs backing file"],
        ),
        ("no such request", Some("new"), good(), Ok(()), "/roots/debian", &["Couldn't stat 'new', err = 2"]),
        (
            "moved away and named anew",
            Some("new"),
            Names::default().with("/home/new", SIZE, 100, 2),
            Ok(()),
            "/home/new",
            &[mismatch, "Switching backing file to 'new'"],
        ),
        ("gone", None, Names::default(), Err(Errno::ENOENT), "/roots/debian", &["Couldn't stat \"/roots/debian\" : err = 2"]),
        (
            "touched",
            None,
            Names::default().with("/roots/debian", SIZE, 4_000_000_000, 1),
            Err(Errno::EINVAL),
            "/roots/debian",
            &["mtime mismatch (100 vs 4000000000) of COW header vs backing file"],
        ),
        (
            "grown and touched: size comes first",
            Some("/roots/debian"),
            Names::default().with("/roots/debian", SIZE + 1, 7, 1),
            Err(Errno::EINVAL),
            "/roots/debian",
            &["Size mismatch (1048576 vs 1048577) of COW header vs backing file"],
        ),
    ];
    for (case, requested, names, result, path, log) in table {
        let found = open(*requested, names);
        assert_eq!(
            (&found.0, found.1.as_str(), found.2.iter().map(String::as_str).collect::<Vec<_>>()),
            (result, *path, log.to_vec()),
            "{case}"
        );
    }
}

#[test]
fn a_new_header_has_the_absolute_path_and_the_size_and_mtime_of_the_file() {
    let names = Names::default().with("/home/back", 1_000_001, 42, 9);
    let header = new_header(b"back", &names).unwrap();
    assert_eq!(header, Header::new(b"/home/back".to_vec(), 1_000_001, 42));
    assert!(check(&header, &names.0[&b"/home/back".to_vec()]).is_ok());
    assert_eq!(new_header(b"nothing", &names), Err(HeaderError::Io(Errno::ENOENT)));
}

#[test]
fn messages_are_those_of_the_reference() {
    assert_eq!(creating_message("cow1", "/roots/debian"), "Creating \"cow1\" as COW file for \"/roots/debian\"");
    assert_eq!(
        unreadable_header_message("bad.cow", &HeaderError::UnknownVersion(9)),
        "Failed to read COW header from COW file \"bad.cow\", errno = 22"
    );
}

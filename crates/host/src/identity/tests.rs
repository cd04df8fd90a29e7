//! Names, directories and sockets in a scratch directory.

use super::*;
use abi::Errno;
use platform::HostMailbox;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("umlaut-identity-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Scratch(path)
    }
    fn claim(&self, umid: Option<&str>) -> (Option<Identity>, Vec<String>) {
        let mut said = Vec::new();
        let identity = Identity::claim(umid, Some(&self.0.join("uml")), &Places::default(), &mut |text| said.push(text));
        (identity, said)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_machine_has_a_private_directory_and_takes_it_away() {
    let scratch = Scratch::new("private");
    let (identity, said) = scratch.claim(Some("one"));
    let identity = identity.unwrap();
    assert_eq!((identity.umid(), said.len()), ("one", 0));
    let directory = scratch.0.join("uml/one");
    let _mailbox = Mailbox::open(&identity).unwrap();
    assert_eq!(std::fs::read_to_string(directory.join("pid")).unwrap(), format!("{}\n", std::process::id()));
    assert_eq!([mode(&directory), mode(&directory.join("pid")), mode(&identity.socket_path())], [0o700, 0o600, 0o600]);
    identity.remove();
    assert!(!scratch.0.join("uml").exists(), "the base directory that it made goes too");
}

#[test]
fn a_name_in_use_is_refused_and_another_one_taken() {
    let scratch = Scratch::new("clash");
    let directory = scratch.0.join("uml/two");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("pid"), "1\n").unwrap();
    let (identity, said) = scratch.claim(Some("two"));
    let identity = identity.unwrap();
    assert_eq!(identity.umid().len(), RANDOM_LEN);
    assert_eq!(
        said,
        ["umid \"two\" is already in use by pid 1", "Failed to initialize umid \"two\", trying with a random umid"],
        "the reference's words"
    );
    identity.remove();
    assert!(directory.join("pid").exists() && scratch.0.join("uml").exists(), "what is not ours stays");
}

#[test]
fn a_stale_directory_is_taken_over() {
    let scratch = Scratch::new("stale");
    let directory = scratch.0.join("uml/three");
    std::fs::create_dir_all(&directory).unwrap();
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    for pid in [String::new(), "nonsense".into(), "-1\n".into(), "0\n".into(), format!("{}\n", child.id()), "\u{0}".into()] {
        std::fs::write(directory.join("pid"), &pid).unwrap();
        std::fs::write(directory.join("mconsole"), "").unwrap();
        let (identity, said) = scratch.claim(Some("three"));
        let identity = identity.unwrap();
        assert_eq!((identity.umid(), said.len()), ("three", 0), "pid file {pid:?}");
        Mailbox::open(&identity).unwrap();
        identity.remove();
        std::fs::create_dir_all(&directory).unwrap();
    }
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let scratch = Scratch::new("names");
    for name in ["", ".", "..", "a/b", "../up", &"x".repeat(64)] {
        let (identity, said) = scratch.claim(Some(name));
        assert_eq!(identity.as_ref().unwrap().umid().len(), RANDOM_LEN, "{name}");
        assert!(said.last().unwrap().contains("trying with a random umid"), "{said:?}");
        identity.unwrap().remove();
    }
    let (identity, said) = scratch.claim(Some(&"x".repeat(63)));
    assert_eq!((identity.unwrap().umid().len(), said.len()), (63, 0));
}

#[test]
fn what_killed_machines_with_random_names_left_is_swept_up() {
    let scratch = Scratch::new("sweep");
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let make = |name: &str, pid: Option<&str>| {
        let directory = scratch.0.join("uml").join(name);
        std::fs::create_dir_all(&directory).unwrap();
        if let Some(pid) = pid {
            std::fs::write(directory.join("pid"), pid).unwrap();
        }
        directory
    };
    let dead = child.id().to_string();
    let (gone, named, alive, young) =
        (make("aB3dE6", Some(&dead)), make("database", Some(&dead)), make("aB3dE7", Some("1")), make("aB3dE8", None));
    let (identity, _) = scratch.claim(None);
    assert!(!gone.exists() && named.exists() && alive.exists() && young.exists());
    identity.unwrap().remove();
}

#[test]
fn the_base_is_in_the_home_directory_or_where_temporary_files_are() {
    let both = Places { home: Some("/home/u".into()), tmpdir: Some("/var/tmp".into()) };
    assert_eq!(both.base(None), (PathBuf::from("/home/u/.uml"), None));
    assert_eq!(both.base(Some(Path::new("~/machines/"))), (PathBuf::from("/home/u/machines"), None));
    assert_eq!(both.base(Some(Path::new("/run/uml"))), (PathBuf::from("/run/uml"), None));
    let (base, remark) = Places { home: None, ..both.clone() }.base(None);
    assert_eq!(base, Path::new("/var/tmp/uml"));
    assert!(remark.unwrap().contains("$HOME"));
    assert_eq!(Places::default().base(None).0, Path::new("/tmp/uml"));
}

#[test]
fn datagrams_come_with_their_senders_address_and_answers_go_back() {
    let scratch = Scratch::new("socket");
    let identity = scratch.claim(Some("four")).0.unwrap();
    let mailbox = Mailbox::open(&identity).unwrap();
    let mut buffer = [0; 16];
    let path = scratch.0.join("client");
    let client = UnixDatagram::bind(&path).unwrap();
    client.send_to(b"question", identity.socket_path()).unwrap();
    let (len, from) = mailbox.receive(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"question");
    assert_eq!(from.0, path.as_os_str().as_encoded_bytes());
    mailbox.send(&from, b"answer").unwrap();
    let len = client.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"answer");
    // A sender without a name can't be answered; one that is gone neither.
    UnixDatagram::unbound().unwrap().send_to(b"anonymous and too long for it", identity.socket_path()).unwrap();
    let (len, nobody) = mailbox.receive(&mut buffer).unwrap();
    assert_eq!((len, mailbox.send(&nobody, b"?")), (16, Err(Errno::EDESTADDRREQ)));
    drop(client);
    assert_eq!(mailbox.send(&from, b"?"), Err(Errno::ECONNREFUSED));
    // One that does not read is not waited for for ever.
    std::fs::remove_file(&path).unwrap();
    let _deaf = UnixDatagram::bind(&path).unwrap();
    let begun = std::time::Instant::now();
    let refused = (0..10_000).find_map(|_| mailbox.send(&from, b"more").err());
    assert_eq!(refused, Some(Errno::EAGAIN));
    assert!(begun.elapsed() < std::time::Duration::from_secs(60));
    identity.remove();
}

#[test]
fn a_notification_without_a_listener_is_an_error_at_once() {
    let scratch = Scratch::new("notify");
    let path = scratch.0.join("listener");
    assert_eq!(notify(&path, b"x"), Err(Errno::ENOENT));
    let listener = UnixDatagram::bind(&path).unwrap();
    notify(&path, b"hello").unwrap();
    let mut buffer = [0; 16];
    assert_eq!(listener.recv(&mut buffer).unwrap(), 5);
    assert_eq!(notify(Path::new(&"x".repeat(200)), b"x"), Err(Errno::ENAMETOOLONG));
}

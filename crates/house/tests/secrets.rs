//! What the host keeps to itself is not found in a machine: words in the kernel's own memory, and files that everybody on the host may read but
//! that lie outside the machine's root.
#![forbid(unsafe_code)]

use house::machine::{Output, Programs, compile, output};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn programs() -> &'static Programs {
    static BUILT: OnceLock<Programs> = OnceLock::new();
    BUILT.get_or_init(|| Programs::build().unwrap())
}

/// A directory to be a root, with the program that looks.
fn root(name: &str) -> PathBuf {
    let place = house::repository().join("target/guest-tests/secrets").join(name);
    // What an earlier run left; it may not be there.
    let _ = std::fs::remove_dir_all(&place);
    let root = place.join("root");
    std::fs::create_dir_all(&root).unwrap();
    compile(&house::repository().join("tests/guest/runner/seek.c"), &root.join("seek"), &[], &[]).unwrap();
    for directory in ["proc", "sys", "dev", "tmp", "etc"] {
        std::fs::create_dir(root.join(directory)).unwrap();
    }
    root
}

/// A secret of this run, and the same with every bit turned over, in hexadecimal digits.
fn secret(salt: u32) -> (String, String) {
    let mut seed = std::process::id().wrapping_mul(2_654_435_761).wrapping_add(salt);
    let secret: String = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(1_103_515_245).wrapping_add(12345);
        char::from(b'a' + (seed >> 16) as u8 % 26)
    })
    .take(24)
    .collect();
    let mut turned = String::new();
    for byte in secret.bytes() {
        write!(turned, "{:02x}", !byte).unwrap();
    }
    (secret, turned)
}

fn look(root: &Path, hand_over: &str, words: &[&str], secret: Option<&str>) -> Output {
    let mut command = Command::new(&programs().umlaut);
    command.args(["run", "--mem", "128M", "--workdir", "/", "--root"]).arg(root).args(["--", "/seek"]).args(words);
    command.env("UMLAUT_HANDOVER", hand_over);
    secret.map(|secret| command.env("KEPT_BY_THE_HOST", secret));
    output(&mut command, b"", Duration::from_secs(120))
}

#[test]
fn a_secret_in_the_kernels_memory_is_never_found() {
    let root = root("memory");
    let (secret, turned) = secret(1);
    for hand_over in ["", "trap"] {
        let said = look(&root, hand_over, &["memory", &turned], Some(&secret));
        assert_eq!(said.status, Some(0), "{said:?}");
        assert!(said.stdout.contains("looked at ") && !said.stdout.contains("FOUND"), "{said:?}");
    }
    // The search does find what is there: a file of the machine itself.
    std::fs::write(root.join("kept"), &secret).unwrap();
    let own = look(&root, "", &["file", &turned, "/kept"], None);
    assert!(own.stdout.contains("FOUND"), "{own:?}");
}

#[test]
fn a_file_outside_the_root_is_never_found() {
    let root = root("file");
    let outside = root.parent().unwrap().join("outside-root");
    std::fs::create_dir(&outside).unwrap();
    let (secret, turned) = secret(2);
    let kept = outside.join("secret");
    std::fs::write(&kept, &secret).unwrap();
    std::os::unix::fs::symlink(&kept, root.join("absolute")).unwrap();
    std::os::unix::fs::symlink("../outside-root/secret", root.join("relative")).unwrap();
    std::os::unix::fs::symlink(&outside, root.join("outside")).unwrap();
    // The host swaps a directory of the root for a link that leads out, all the time.
    std::fs::create_dir(root.join("directory")).unwrap();
    std::os::unix::fs::symlink(&outside, root.join("link")).unwrap();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let [swapped, link, directory] = ["swapped", "link", "directory"].map(|name| root.join(name));
            while !ended.load(Ordering::SeqCst) {
                for other in [&directory, &link] {
                    std::fs::rename(other, &swapped).unwrap();
                    std::thread::sleep(Duration::from_micros(200));
                    std::fs::rename(&swapped, other).unwrap();
                }
            }
        });
        let said = look(&root, "", &["file", &turned, kept.to_str().unwrap()], None);
        ended.store(true, Ordering::SeqCst);
        assert_eq!(said.status, Some(0), "{said:?}");
        assert!(said.stdout.contains("tried ") && !said.stdout.contains("FOUND"), "{said:?}");
    });
}

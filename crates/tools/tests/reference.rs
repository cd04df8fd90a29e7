//! The tools with the machine they were made for: Debian's `user-mode-linux` boots from our COW files, talks through our switch and
//! obeys our console; what it wrote is merged by our `uml_moo` as by Debian's.
//!
//! Needs `linux.uml`, a static `busybox` and `mke2fs`; says so aloud when one is missing, or when this UML does not run on this processor.

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Scratch, debian, run};

const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
echo MARK-START
case $(/bin/busybox cat /proc/cmdline) in
 *job=write*) echo hello-from-guest > /file; /bin/busybox sync;;
 *job=read*) /bin/busybox cat /file;;
 *job=ping*) /bin/busybox ifconfig eth0 10.9.9.2 up; /bin/busybox ping -c 40 -W 2 10.9.9.1 | /bin/busybox grep -m 1 ttl=;;
 *job=pong*) /bin/busybox ifconfig eth0 10.9.9.1 up; /bin/busybox sleep 60;;
esac
echo MARK-END
/bin/busybox mount -o remount,ro /
/bin/busybox poweroff -f
"#;

fn skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}; nothing was tried with the reference UML");
}

/// Makes an ext4 image with busybox and an init in it. False when the host lacks what it takes.
fn make_image(scratch: &Scratch) -> bool {
    let root = scratch.path("root");
    for directory in ["bin", "proc", "dev"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    if !Path::new("/usr/bin/linux.uml").exists() || fs::copy("/usr/bin/busybox", root.join("bin/busybox")).is_err() {
        skip("linux.uml or busybox is not installed");
        return false;
    }
    fs::write(root.join("init"), INIT).unwrap();
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::File::create(scratch.path("img")).unwrap().set_len(32 << 20).unwrap();
    let made = ["mke2fs", "/usr/sbin/mke2fs"].iter().find_map(|program| {
        let mut command = Command::new(program);
        command.args(["-q", "-t", "ext4", "-d", "root", "img"]).current_dir(&scratch.0).stderr(Stdio::null()).status().ok()
    });
    let made = made.is_some_and(|status| status.success());
    if !made {
        skip("mke2fs is not installed");
    }
    made
}

/// Starts a machine; it is killed after 30 seconds.
fn boot(scratch: &Scratch, arguments: &[&str]) -> Child {
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "30", "/usr/bin/linux.uml", "mem=96M", "root=/dev/ubda", "rw", "init=/init", "quiet"]);
    command.args(["con=null", "con0=fd:0,fd:1"]).args(arguments).current_dir(&scratch.0).env("HOME", &scratch.0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

fn output(machine: Child) -> String {
    String::from_utf8_lossy(&machine.wait_with_output().unwrap().stdout).into_owned()
}

fn tool(name: &str, scratch: &Scratch, arguments: &[&str]) -> String {
    let program = match name {
        "uml_moo" => env!("CARGO_BIN_EXE_uml_moo"),
        "uml_mkcow" => env!("CARGO_BIN_EXE_uml_mkcow"),
        _ => env!("CARGO_BIN_EXE_uml_mconsole"),
    };
    let mut command = Command::new(program);
    let ended = command.args(arguments).current_dir(&scratch.0).env("HOME", &scratch.0).stdin(Stdio::null()).output().unwrap();
    assert!(ended.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&ended.stderr));
    String::from_utf8_lossy(&ended.stdout).into_owned()
}

#[test]
fn the_reference_runs_on_our_cow_files_switch_and_console() {
    let scratch = Scratch::new();
    if !make_image(&scratch) {
        return;
    }
    let image = fs::read(scratch.path("img")).unwrap();
    tool("uml_mkcow", &scratch, &["c.cow", "img"]);
    if !output(boot(&scratch, &["ubd0=c.cow", "job=write"])).contains("MARK-END") {
        return skip("this linux.uml does not boot here");
    }
    assert!(output(boot(&scratch, &["ubd0=c.cow", "job=read"])).contains("hello-from-guest"));
    assert!(fs::read(scratch.path("img")).unwrap() == image, "the backing file was changed");
    tool("uml_moo", &scratch, &["c.cow", "merged"]);
    if let Some(theirs) = debian("uml_moo") {
        assert_eq!(run(theirs, &["c.cow", "theirs"], &scratch.0).status, 0);
        assert!(fs::read(scratch.path("merged")).unwrap() == fs::read(scratch.path("theirs")).unwrap());
    }
    assert!(output(boot(&scratch, &["ubd0=merged", "job=read"])).contains("hello-from-guest"));

    let control = scratch.path("ctl");
    let mut switch = Command::new(env!("CARGO_BIN_EXE_uml_switch"));
    let mut switch = switch.arg("-unix").arg(&control).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    while !control.exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let network = format!("eth0=daemon,,unix,{}", control.display());
    tool("uml_mkcow", &scratch, &["a.cow", "img"]);
    tool("uml_mkcow", &scratch, &["b.cow", "img"]);
    let mut pong = boot(&scratch, &["ubd0=a.cow", &network, "umid=pong", "job=pong"]);
    let pinged = output(boot(&scratch, &["ubd0=b.cow", &network, "umid=ping", "job=ping"]));
    let backing = format!("OK a.cow,{}\n", scratch.path("img").display());
    let (version, query) =
        (tool("uml_mconsole", &scratch, &["pong", "version"]), tool("uml_mconsole", &scratch, &["pong", "config", "ubda"]));
    let stopped = tool("uml_mconsole", &scratch, &["pong", "stop"]);
    tool("uml_mconsole", &scratch, &["pong", "go"]);
    // Not `halt`: this UML at times crashes in it and never answers.
    tool("uml_mconsole", &scratch, &["pong", "int"]);
    let interrupted = pong.wait().unwrap();
    switch.kill().unwrap();
    switch.wait().unwrap();
    assert!(pinged.contains("64 bytes from 10.9.9.1"), "{pinged}");
    assert!(version.starts_with("OK Linux "), "{version}");
    assert_eq!((query, stopped.as_str()), (backing, "OK stopped\n"));
    assert_eq!(interrupted.code(), Some(1));
}

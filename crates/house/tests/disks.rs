//! Machines that boot from disks: file systems, names of the root, flags, partitions, and what is said when it goes wrong.
#![forbid(unsafe_code)]

use house::disk::{Ended, boot, host, make_image, place};
use house::machine::{Programs, compile};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

fn programs() -> &'static Programs {
    static BUILT: OnceLock<Programs> = OnceLock::new();
    BUILT.get_or_init(|| Programs::build().unwrap())
}

/// A test's own directory, empty; `None` when there is nothing to make images with.
fn own(name: &str) -> Option<PathBuf> {
    house::disk::tree()?;
    let directory = place(name);
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    Some(directory)
}

/// An ext4 image called `name`, copied from one that is made once.
fn image(directory: &Path, name: &str) {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let path = place("base.img");
        make_image(&path, &["-t", "ext4", "-b", "1024", "-L", "base", "-U", "01234567-89ab-cdef-0123-456789abcdef"], 24).unwrap();
        path
    });
    std::fs::copy(made, directory.join(name)).unwrap();
}

fn run(directory: &Path, arguments: &[&str], script: &str) -> Ended {
    boot(&programs().linux, directory, arguments, script).unwrap()
}

fn says(text: &str, wanted: &str) {
    assert!(text.contains(wanted), "not said: {wanted:?}\nwhat was said:\n{text}");
}

/// Lines that a script printed as `=what`.
fn told(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.strip_prefix('=')).collect()
}

fn is_clean(image: &Path) {
    let (clean, text) = host("e2fsck", &["-fn", &image.to_string_lossy()]);
    assert!(clean, "{}: {text}", image.display());
}

#[test]
fn roots_of_every_kind_boot_are_written_and_stay_clean() {
    let Some(directory) = own("roots") else { return };
    for (kind, block, features) in
        [("ext2", "1024", "filetype"), ("ext2", "4096", "filetype"), ("ext3", "1024", "has_journal"), ("ext4", "4096", "extent")]
    {
        let name = format!("{kind}-{block}.img");
        let path = directory.join(&name);
        make_image(&path, &["-t", kind, "-b", block, "-O", features], 16).unwrap();
        let script = "dd if=/dev/zero of=/zeroes bs=1k count=100 2>/dev/null; mkdir /d; ln -s x /d/link; echo some words > /d/file
            sync; echo =$(cat /d/file); mount -o remount,ro /; echo =$?";
        let ended = run(&directory, &[&format!("ubd0={name}"), "root=/dev/ubda", "rw"], script);
        says(&ended.text, &format!("VFS: Mounted root ({kind} filesystem) on device 98:0."));
        assert_eq!(told(&ended.text), ["some words", "0"], "{}", ended.text);
        assert_eq!(ended.status, Some(0));
        is_clean(&path);
        let (_, listed) = host("debugfs", &["-R", "cat /d/file", &path.to_string_lossy()]);
        says(&listed, "some words");
    }
}

#[test]
fn the_root_has_many_names() {
    let Some(directory) = own("names") else { return };
    image(&directory, "img");
    image(&directory, "root_fs");
    let script = "echo =$(grep -c '^/dev/root / ext4 ro' /proc/mounts)";
    for (unit, root) in [
        ("ubda", "root=/dev/ubda"),
        ("ubd0", "root=/dev/ubd0"),
        ("ubd0", "root=98:0"),
        ("ubda", "root=6200"),
        ("ubda", "root=/dev/ubd/0"),
        ("ubdf", "root=/dev/ubd5"),
        ("ubdf", "root=98:80"),
        ("ubdb", "root=UUID=01234567-89AB-cdef-0123-456789abcdef"),
        ("ubdb", "root=LABEL=base"),
        ("ubda", "ro"),
    ] {
        let ended = run(&directory, &[&format!("{unit}=img"), root], script);
        assert_eq!((told(&ended.text), ended.status), (vec!["1"], Some(0)), "{unit} {root}: {}", ended.text);
    }
    // Nothing named at all: the file `root_fs`.
    let ended = run(&directory, &[], script);
    assert_eq!((told(&ended.text), ended.status), (vec!["1"], Some(0)), "{}", ended.text);
}

#[test]
fn a_root_that_is_not_there_is_a_panic_in_the_references_words() {
    let Some(directory) = own("panics") else { return };
    image(&directory, "img");
    let ended = run(&directory, &["ubda=/nonexistent", "root=/dev/ubda"], "");
    for wanted in [
        "Failed to initialize ubd device 0 :Couldn't determine size of device's file\n",
        "VFS: Cannot open root device \"ubda\" or unknown-block(0,0): error -6\n",
        "Please append a correct \"root=\" boot option; here are the available partitions:\n",
        "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\n",
    ] {
        says(&ended.text, wanted);
    }
    assert_eq!(ended.status, Some(134));

    let ended = run(&directory, &["ubda=img", "root=/dev/ubdp"], "no file system");
    for wanted in ["No filesystem could mount root, tried: \n ext3 ext2 ext4\n", "Unable to mount root fs on unknown-block(98,240)\n"] {
        says(&ended.text, wanted);
    }
    says(&ended.text, "6200           24576 ubda \n driver: uml-blkdev\n");

    let ended = run(&directory, &["ubda=img", "ubd99=base2", "root=/dev/ubdc", "rootwait=2"], "");
    for wanted in [
        "Failed to initialize device with \"99=base2\" : Device number out of range\n",
        "VFS: Waiting 2sec for root device...\n",
        "VFS: Waiting 1sec for root device...\n",
        "VFS: Cannot open root device \"ubdc\"",
    ] {
        says(&ended.text, wanted);
    }
}

#[test]
fn a_file_of_any_length_is_a_disk_of_whole_sectors() {
    let Some(directory) = own("sizes") else { return };
    image(&directory, "img");
    let odd: Vec<u8> = (0..1575u32).map(|at| (at % 251) as u8 + 1).collect();
    std::fs::write(directory.join("odd"), &odd).unwrap();
    std::fs::write(directory.join("empty"), []).unwrap();
    let script = "echo =$(wc -c < /dev/ubdd) $(dd if=/dev/ubdd bs=1 skip=1575 2>/dev/null | tr -d '\\0' | wc -c)
        dd if=/dev/ubdd bs=1 count=1575 2>/dev/null | md5sum | sed 's/^/=/'; echo =$(wc -c < /dev/ubde)
        dd if=/dev/ubdd of=/dev/null bs=512 skip=4 2>&1 | grep -c '^0+0 records in' | sed 's/^/=/'
        echo =$(cat /sys/block/ubdd/size) $(grep ubdd /proc/partitions)";
    let ended = run(&directory, &["ubda=img", "ubdd=odd", "ubde=empty"], script);
    std::fs::write(directory.join("exact"), &odd).unwrap();
    let (_, sum) = host("md5sum", &["-z", &directory.join("exact").to_string_lossy()]);
    let sum = format!("{}  -", sum.split(' ').next().unwrap());
    assert_eq!(told(&ended.text), ["2048 0", &sum, "0", "1", "4 98 48 2 ubdd"], "{}", ended.text);
    assert_eq!(std::fs::read(directory.join("odd")).unwrap(), odd);
    // Written to its end the file grows to the whole sector, and no further.
    let ended = run(&directory, &["ubda=img", "ubdd=odd"], "dd if=/dev/zero of=/dev/ubdd bs=512 seek=3 2>&1 | grep records");
    says(&ended.text, "1+0 records out");
    assert_eq!(std::fs::metadata(directory.join("odd")).unwrap().len(), 2048);
}

#[test]
fn raw_files_are_unpacked_as_they_are() {
    let Some(directory) = own("raw") else { return };
    image(&directory, "img");
    std::fs::create_dir(directory.join("some")).unwrap();
    std::fs::write(directory.join("some/words"), "words in a tar").unwrap();
    let name = |name: &str| directory.join(name).to_string_lossy().into_owned();
    assert!(host("tar", &["-C", &name(""), "-cf", &name("plain"), "some"]).0);
    assert!(host("tar", &["-C", &name(""), "-czf", &name("packed"), "some"]).0);
    let script = "cd /tmp; tar xf /dev/ubdb; echo =$(cat some/words); rm -r some; (gunzip -c < /dev/ubdc 2>/dev/null) | tar x; echo =$(cat some/words)";
    let ended = run(&directory, &["ubda=img", "ubdb=plain", "ubdc=packed"], script);
    assert_eq!(told(&ended.text), ["words in a tar", "words in a tar"], "{}", ended.text);
}

#[test]
fn flags_and_permissions_make_disks_read_only() {
    let Some(directory) = own("flags") else { return };
    image(&directory, "img");
    std::fs::write(directory.join("r"), vec![7; 4096]).unwrap();
    std::fs::write(directory.join("s"), vec![7; 4096]).unwrap();
    let script = "for d in b c; do echo =$d $(cat /sys/block/ubd$d/ro) $(blockdev --getro /dev/ubd$d)
            dd if=/dev/zero of=/dev/ubd$d bs=512 count=1 2>&1 | grep -ci 'read-only' | sed 's/^/=/'; done
        echo =$(cat /sys/block/ubdc/serial) $(cat /sys/block/ubdc/queue/discard_max_bytes) $(cat /sys/block/ubda/queue/discard_max_bytes)";
    let ended = run(&directory, &["ubda=img", "ubdbr=r", "ubdcst=s,,SER-1"], script);
    assert_eq!(told(&ended.text), ["b 1 1", "1", "c 0 0", "0", "SER-1 0 32768"], "{}", ended.text);
    assert_eq!(std::fs::read(directory.join("r")).unwrap(), vec![7; 4096]);
    assert_eq!(std::fs::read(directory.join("s")).unwrap()[..512], vec![0; 512]);
    let ended = run(&directory, &["ubdard=img", "root=/dev/ubda", "rw"], "echo =$(mount -o remount,rw / 2>&1 | grep -ci read-only)");
    says(&ended.text, "VFS: Mounted root (ext4 filesystem) readonly on device 98:0.");
    assert_eq!(told(&ended.text), ["1"], "{}", ended.text);
    // What the host does not let us write is read-only too; root may write anything.
    if !rootless(&directory) {
        return;
    }
    let (ok, _) = host("chmod", &["444", &directory.join("img").to_string_lossy()]);
    assert!(ok);
    let ended = run(&directory, &["ubda=img", "rw"], "echo =$(cat /sys/block/ubda/ro)");
    says(&ended.text, "VFS: Mounted root (ext4 filesystem) readonly on device 98:0.");
    assert_eq!(told(&ended.text), ["1"], "{}", ended.text);
}

/// Whether modes of files bind us.
fn rootless(directory: &Path) -> bool {
    let probe = directory.join("probe");
    std::fs::write(&probe, "").unwrap();
    assert!(host("chmod", &["444", &probe.to_string_lossy()]).0);
    std::fs::OpenOptions::new().write(true).open(&probe).is_err()
}

#[test]
fn files_that_are_no_disks_are_refused_and_boot_goes_on() {
    let Some(directory) = own("refused") else { return };
    image(&directory, "img");
    assert!(host("mkfifo", &[&directory.join("fifo").to_string_lossy()]).0);
    let ended = run(&directory, &["ubda=img", "ubdb=fifo", "ubdc=/dev/null", "ubdd=.", "ubde=missing"], "echo =$(ls /dev/ubd*)");
    assert_eq!(told(&ended.text), ["/dev/ubda /dev/ubdp"], "{}", ended.text);
    for unit in 1..5 {
        says(&ended.text, &format!("Failed to initialize ubd device {unit} :Couldn't determine size of device's file\n"));
    }
}

/// A DOS table: two primary partitions and, in an extended one, a logical one.
fn dos_table(sectors: u32) -> Vec<u8> {
    let mut disk = vec![0; sectors as usize * 512];
    let entry = |kind: u8, start: u32, len: u32| {
        let mut entry = [0; 16];
        entry[4] = kind;
        entry[8..12].copy_from_slice(&start.to_le_bytes());
        entry[12..].copy_from_slice(&len.to_le_bytes());
        entry
    };
    disk[440..444].copy_from_slice(&0x1234_abcd_u32.to_le_bytes());
    disk[446..462].copy_from_slice(&entry(0x83, 64, 2048));
    disk[462..478].copy_from_slice(&entry(0x82, 2112, 1024));
    disk[478..494].copy_from_slice(&entry(0x05, 3136, 1024));
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let extended = 3136 * 512;
    disk[extended + 446..extended + 462].copy_from_slice(&entry(0x83, 32, 512));
    disk[extended + 510..extended + 512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

#[test]
fn partitions_are_devices_of_their_own() {
    let Some(directory) = own("partitions") else { return };
    image(&directory, "img");
    std::fs::write(directory.join("disk"), dos_table(8192)).unwrap();
    let script = "cat /proc/partitions | sed 's/^/=/' | grep ubdc; ls -l /dev/ubdc2 | tr -s ' ' | cut -d' ' -f5,6 | sed 's/^/=/'
        cd /sys/block/ubdc; echo =$(cat ubdc1/partition ubdc1/start ubdc1/size ubdc5/start) $(grep -c PARTN=5 ubdc5/uevent) $(readlink /sys/class/block/ubdc5)
        mke2fs -q /dev/ubdc1 2>/dev/null >/dev/null; mount -t ext2 /dev/ubdc1 /mnt; echo in a partition > /mnt/file; umount /mnt; mount /dev/ubdc1 /mnt; echo =$(cat /mnt/file)
        blockdev --rereadpt /dev/ubdc 2>&1 | grep -ci busy | sed 's/^/=/'; umount /mnt
        dd if=/dev/zero of=/dev/ubdc bs=1 seek=462 count=16 conv=notrunc 2>/dev/null; blockdev --rereadpt /dev/ubdc; echo =$? $(ls /dev/ubdc*)
        fdisk -l /dev/ubda | grep -o '128 heads, 32 sectors' | sed 's/^/=/'";
    let ended = run(&directory, &["ubda=img", "ubdc=disk"], script);
    says(&ended.text, " ubdc: ubdc1 ubdc2 ubdc3 < ubdc5 >\n");
    let told = told(&ended.text);
    let sizes: Vec<String> = told.iter().take(5).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(sizes, ["98 32 4096 ubdc", "98 33 1024 ubdc1", "98 34 512 ubdc2", "98 35 1 ubdc3", "98 37 256 ubdc5"], "{}", ended.text);
    let place = "../../devices/platform/uml-blkdev.2/block/ubdc/ubdc5";
    let rest = ["98, 34", &format!("1 64 2048 3168 1 {place}"), "in a partition", "1", "0 /dev/ubdc /dev/ubdc1 /dev/ubdc3 /dev/ubdc5"];
    assert_eq!(told[5..10], rest, "{}", ended.text);
    assert_eq!(told[10], "128 heads, 32 sectors");
}

#[test]
fn the_root_is_found_by_its_partitions_uuid() {
    let Some(directory) = own("partuuid") else { return };
    image(&directory, "img");
    let image = std::fs::read(directory.join("img")).unwrap();
    let sectors = (image.len() / 512) as u32;
    let mut disk = dos_table(sectors + 64);
    disk[446 + 12..446 + 16].copy_from_slice(&sectors.to_le_bytes());
    disk[462..494].fill(0);
    disk[64 * 512..].copy_from_slice(&image);
    std::fs::write(directory.join("disk"), disk).unwrap();
    for root in ["root=PARTUUID=1234abcd-01", "root=/dev/ubda1", "root=98:1"] {
        let ended = run(&directory, &["ubda=disk", root], "echo =$(grep -c '^/dev/root / ext4' /proc/mounts)");
        assert_eq!((told(&ended.text), ended.status), (vec!["1"], Some(0)), "{root}: {}", ended.text);
    }
}

#[test]
fn a_file_given_more_room_on_the_host_is_a_larger_disk() {
    let Some(directory) = own("grown") else { return };
    image(&directory, "img");
    let path = directory.join("img");
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(40 << 20).unwrap();
    drop(file);
    assert!(host("e2fsck", &["-fp", &path.to_string_lossy()]).0);
    let (resized, text) = host("resize2fs", &[&path.to_string_lossy()]);
    assert!(resized, "{text}");
    let ended = run(&directory, &["ubda=img", "rw"], "echo =$(cat /sys/block/ubda/size) $(( $(stat -f -c %b /) > 35000 ))");
    assert_eq!(told(&ended.text), ["81920 1"], "{}", ended.text);
}

#[test]
fn room_that_files_give_back_goes_back_to_the_host() {
    let Some(directory) = own("trim") else { return };
    image(&directory, "img");
    image(&directory, "mounted");
    let allocated = |name: &str| {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(directory.join(name)).unwrap().blocks() * 512
    };
    let fill = "dd if=/dev/urandom of=/big bs=64k count=128 2>/dev/null; sync; rm /big; sync";
    run(&directory, &["ubda=img", "rw"], fill);
    let full = allocated("img");
    // With the flag `t` nothing is given back, and the caller is told.
    let ended = run(&directory, &["ubdat=img", "rw"], "fstrim / 2>/dev/null; echo =$?");
    assert_eq!((told(&ended.text), allocated("img") == full), (vec!["1"], true), "{}", ended.text);
    let ended = run(&directory, &["ubda=img", "rw"], "fstrim -v / | grep -c trimmed | sed 's/^/=/'; mount -o remount,ro /");
    assert_eq!(told(&ended.text), ["1"], "{}", ended.text);
    assert!(allocated("img") + (7 << 20) < full, "{full} bytes before, {} after", allocated("img"));
    is_clean(&directory.join("img"));
    // As the mount option, without being asked.
    let before = allocated("mounted");
    let ended = run(&directory, &["ubda=mounted", "rw", "rootflags=discard"], &format!("{fill}; mount -o remount,ro /; echo =$?"));
    assert_eq!(told(&ended.text), ["0"], "{}", ended.text);
    assert!(allocated("mounted") < before + (2 << 20), "{before} bytes before, {} after", allocated("mounted"));
    is_clean(&directory.join("mounted"));
}

#[test]
fn the_extents_of_a_file_can_be_asked_for() {
    let Some(directory) = own("extents") else { return };
    image(&directory, "img");
    let program = directory.join("records");
    compile(&house::repository().join("tests/guest/runner/records.c"), &program, &[], &[]).unwrap();
    let script = "cat /dev/ubdo > /tmp/r; chmod 755 /tmp/r; dd if=/dev/urandom of=/file bs=1k count=64 2>/dev/null; /tmp/r extents /file
        dd if=/dev/urandom of=/sparse bs=4k count=1 2>/dev/null; dd if=/dev/urandom of=/sparse bs=4k seek=100 count=2 conv=notrunc 2>/dev/null
        /tmp/r extents /sparse; /tmp/r extents /proc/version; : > /empty; /tmp/r extents /empty";
    let ended = run(&directory, &["ubda=img", "ubdor=records", "rw"], script);
    let told = told(&ended.text);
    assert_eq!(told, ["extents 1 65536 1", "extents 2 12288 1", "broken Operation not supported", "extents 0 0 0"], "{}", ended.text);
}

#[test]
fn an_image_boots_without_umls_words() {
    let Some(directory) = own("boot") else { return };
    image(&directory, "img");
    house::disk::write_script(&directory.join("script"), "echo =$(grep -c '^/dev/root / ext4 rw' /proc/mounts); echo x > /file; sync")
        .unwrap();
    let before = std::fs::read(directory.join("img")).unwrap();
    let boot = |arguments: &[&str]| {
        let mut command = std::process::Command::new(&programs().umlaut);
        command.current_dir(&directory).arg("boot").args(arguments);
        house::disk::run(&mut command, std::time::Duration::from_secs(60)).unwrap()
    };
    let ended = boot(&["--mem", "64M", "--cow", "cow", "img", "--", "ubdpr=script", "quiet"]);
    assert_eq!((told(&ended.text), ended.status), (vec!["1"], Some(0)), "{}", ended.text);
    assert!(std::fs::read(directory.join("img")).unwrap() == before, "the image was written");
    let ended = boot(&["--verbose", "--mem", "64M", "--cpus", "1", "--read-only", "img", "--", "ubdpr=script"]);
    says(&ended.text, "linux mem=65536K ubdar=img root=/dev/ubda ro con0=fd:0,fd:1 ncpus=1 eth0=user ubdpr=script\n");
    assert_eq!((told(&ended.text), ended.status), (vec!["0"], Some(0)), "{}", ended.text);
    for (arguments, sentence) in
        [(["missing", "--mem=64M"], "missing: there is no image to boot"), (["a,b", "--mem=64M"], "no comma and no colon")]
    {
        let ended = boot(&arguments);
        says(&ended.text, sentence);
        assert_eq!(ended.status, Some(125));
    }
}

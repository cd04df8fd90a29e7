//! Disks that come and go while a machine runs, by the management console.
#![forbid(unsafe_code)]

use house::disk::{make_image, place, program};
use house::machine::Programs;
use house::managed::Managed;

#[test]
fn disks_come_grow_and_go_while_the_machine_runs() {
    let programs = Programs::build().unwrap();
    let Some(mut machine) = Managed::boot(&programs, &[], &[]) else { return };
    if house::disk::tree().is_none() {
        return;
    }
    let ok = |text: &str| (0, text.to_owned());
    let refused = |err: i32, text: &str| (err, text.to_owned());
    let image = place("plugged.img");
    make_image(&image, &["-t", "ext4", "-b", "1024"], 16).unwrap();
    let name = image.to_string_lossy().into_owned();

    assert_eq!(machine.told("config ubdb"), ok(""));
    assert_eq!(machine.told(&format!("config ubdb={name}")), ok(""));
    assert_eq!(machine.told("config ubdb"), ok(&name));
    assert_eq!(machine.told("config ubd1"), ok(&name));
    assert_eq!(machine.told(&format!("config ubdb={name}")), refused(-16, "Device is already configured"));
    let shown = machine.shell(
        "mkdir -p /proc /sys /mnt; mount -t proc p /proc; mount -t sysfs s /sys; grep ubd /proc/partitions; cat /sys/block/ubdb/size",
    );
    assert!(shown.contains("98       16      16384 ubdb") && shown.contains("32768"), "{shown}");

    // In use it stays.
    let mounted = machine.shell("mount -t ext4 /dev/ubdb /mnt && echo words > /mnt/file && ls /mnt/bin/busybox");
    assert!(mounted.contains("/mnt/bin/busybox"), "{mounted}");
    assert_eq!(machine.told("remove ubdb"), refused(-16, "Device is currently open"));
    assert_eq!(machine.told("remove ubd1"), refused(-16, "Device is currently open"));
    machine.shell("umount /mnt; exec 5</dev/ubdb");
    assert_eq!(machine.told("remove ubdb"), refused(-16, "Device is currently open"));
    machine.shell("exec 5<&-");
    assert_eq!(machine.told("remove ubdb"), ok(""));
    assert_eq!(machine.told("remove ubdb"), refused(-19, "Device doesn't exist"));
    assert_eq!(machine.told("config ubdb"), ok(""));
    let gone = machine.shell("ls /dev/ubdb /sys/block/ubdb 2>&1; grep -c ubdb /proc/partitions");
    assert!(!gone.contains("16384") && gone.matches("No such file").count() == 2, "{gone}");

    // Given more room meanwhile, it comes back larger, with what was written.
    assert!(program("resize2fs").is_some());
    let file = std::fs::OpenOptions::new().write(true).open(&image).unwrap();
    file.set_len(20 << 20).unwrap();
    assert_eq!(machine.told(&format!("config ubdbr={name}")), ok(""));
    let back = machine.shell("cat /sys/block/ubdb/size; mount -t ext4 -o ro /dev/ubdb /mnt; cat /mnt/file; umount /mnt");
    assert!(back.contains("40960") && back.contains("words"), "{back}");
    // And grows while it is open, when it is told to look.
    machine.shell("exec 5</dev/ubdb");
    file.set_len(24 << 20).unwrap();
    let grown = machine.shell("blockdev --rereadpt /dev/ubdb; cat /sys/block/ubdb/size; exec 5<&-");
    assert!(grown.contains("49152"), "{grown}");

    for (setting, err, text) in [
        ("config ubdc=/nonexistent", -2, "Couldn't determine size of device's file"),
        ("config ubd16=x", -22, "Device number out of range"),
        ("config ubd=x", -22, "fake major not supported any more"),
        ("config ubdcx=x", -22, "Expected '=' or flag letter (r, s, c, t or d)"),
        ("config ubdcd=x,y", -22, "Can't specify both 'd' and a cow file"),
        ("config ubd99", 1, "ubd_get_config : device number out of range"),
        ("remove ubd16", 1, "Invalid device number - must be between 0 and 15"),
        ("remove ubdc", -19, "Device doesn't exist"),
    ] {
        assert_eq!(machine.told(setting), refused(err, text), "{setting}");
    }
    // A COW file is made as at boot.
    let cow = place("plugged.cow").to_string_lossy().into_owned();
    let _ = std::fs::remove_file(&cow);
    assert_eq!(machine.told("remove ubdb"), ok(""));
    assert_eq!(machine.told(&format!("config ubdp={cow},{name}")), ok(""));
    assert_eq!(machine.told("config ubd15"), ok(&format!("{cow},{name}")));
    let written = machine.shell("mount -t ext4 /dev/ubdp /mnt && echo other > /mnt/file && cat /mnt/file; umount /mnt");
    assert!(written.contains("other"), "{written}");
    assert_eq!(machine.told("remove ubdp"), ok(""));
    assert_eq!(machine.told("halt"), ok(""));
    machine.end();
}

use super::*;
use platform::{HostOpen, HostStatFs};
use std::ffi::CString;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A directory of its own for a test, with `in/` to give away and a secret beside it.
struct Scene {
    path: PathBuf,
}

impl Scene {
    fn new() -> Scene {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("umlaut-files-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(path.join("in")).unwrap();
        std::fs::create_dir(path.join("out")).unwrap();
        std::fs::write(path.join("out/f"), "SECRET").unwrap();
        Scene { path }
    }
    fn inside(&self, name: &str) -> PathBuf {
        self.path.join("in").join(name)
    }
    fn write(&self, name: &str, data: &str) {
        std::fs::write(self.inside(name), data).unwrap();
    }
    fn tree(&self) -> Arc<dyn HostDir> {
        open_tree(&self.path.join("in")).unwrap()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

const READ: HostOpen = HostOpen { write: false, create_mode: None };
const WRITE: HostOpen = HostOpen { write: true, create_mode: None };

fn contents(file: &dyn HostFile) -> String {
    let mut buffer = vec![0; 4096];
    let n = file.read_at(0, &mut buffer).unwrap();
    String::from_utf8(buffer[..n].to_vec()).unwrap()
}

fn scale() -> u64 {
    match std::env::var("UMLAUT_SCALE").as_deref() {
        Ok("full") => 60,
        Ok(number) => number.parse().unwrap_or(1),
        Err(_) => 1,
    }
}

#[test]
fn names_that_are_not_one_component_are_refused_by_every_call() {
    let scene = Scene::new();
    scene.write("f", "x");
    let tree = scene.tree();
    for name in [&b""[..], b".", b"..", b"/", b"/etc/passwd", b"../out/f", b"a/b", b"f\0", b"f/"] {
        let refused = [
            tree.entry_metadata(name).err(),
            tree.open_dir(name).err(),
            tree.open_file(name, READ).err(),
            tree.open_file(name, HostOpen { write: true, create_mode: Some(0o644) }).err(),
            tree.read_link(name).err(),
            tree.make_dir(name, 0o755).err(),
            tree.make_symlink(name, b"x").err(),
            tree.make_node(name, HostKind::Fifo, 0o644).err(),
            tree.link(name, &*tree, b"g").err(),
            tree.link(b"f", &*tree, name).err(),
            tree.unlink(name).err(),
            tree.remove_dir(name).err(),
            tree.rename(name, &*tree, b"g", false, false).err(),
            tree.rename(b"f", &*tree, name, false, false).err(),
            tree.set_mode(name, 0o600).err(),
            tree.set_owner(name, None, None).err(),
            tree.set_times(name, None, None).err(),
        ];
        assert!(refused.iter().all(|e| *e == Some(Errno::EINVAL)), "{name:?}: {refused:?}");
    }
    assert_eq!(tree.entry_metadata(&[b'a'; 256]).err(), Some(Errno::ENAMETOOLONG));
    assert_eq!(tree.entries().unwrap().len(), 1, "nothing was made");
}

#[test]
fn a_file_is_created_written_read_and_has_the_mode_asked_for_whatever_the_umask() {
    let scene = Scene::new();
    let tree = scene.tree();
    let file = tree.open_file(b"f", HostOpen { write: true, create_mode: Some(0o666) }).unwrap();
    assert_eq!(tree.open_file(b"f", HostOpen { write: true, create_mode: Some(0o666) }).err(), Some(Errno::EEXIST));
    file.write_at(3, b"hello").unwrap();
    assert_eq!(contents(&*file), "\0\0\0hello");
    file.set_len(5).unwrap();
    file.set_times(Some(1_500_000_000), Some(-1)).unwrap();
    file.sync(true).unwrap();
    tree.make_dir(b"d", 0o777).unwrap();
    tree.make_node(b"p", HostKind::Fifo, 0o666).unwrap();
    tree.make_node(b"s", HostKind::Socket, 0o622).unwrap();
    assert_eq!(tree.make_node(b"c", HostKind::CharDevice, 0o666).err(), Some(Errno::EPERM));
    let mode = |name: &str| std::fs::metadata(scene.inside(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("f"), mode("d"), mode("p"), mode("s")), (0o666, 0o777, 0o666, 0o622));
    let metadata = tree.entry_metadata(b"f").unwrap();
    assert_eq!((metadata.size_bytes, metadata.accessed_ns, metadata.modified_ns), (5, 1_500_000_000, -1));
    assert_eq!(metadata.ino, std::fs::metadata(scene.inside("f")).unwrap().ino());
    assert_eq!(metadata.dev, std::fs::metadata(scene.inside("f")).unwrap().dev());
    let mut names: Vec<_> = tree.entries().unwrap().into_iter().map(|e| (e.name, e.kind)).collect();
    names.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = [("d", HostKind::Directory), ("f", HostKind::File), ("p", HostKind::Fifo), ("s", HostKind::Socket)];
    assert_eq!(names, expected.map(|(name, kind)| (name.as_bytes().to_vec(), kind)));
    assert_ne!(tree.statfs().unwrap(), HostStatFs::default());
}

#[test]
fn what_is_not_a_regular_file_is_never_opened() {
    let scene = Scene::new();
    let tree = scene.tree();
    tree.make_node(b"fifo", HostKind::Fifo, 0o666).unwrap();
    tree.make_node(b"socket", HostKind::Socket, 0o666).unwrap();
    tree.make_dir(b"dir", 0o755).unwrap();
    symlink("dir", scene.inside("link")).unwrap();
    for (name, expected) in [("fifo", Errno::ENXIO), ("socket", Errno::ENXIO), ("dir", Errno::EISDIR), ("link", Errno::ELOOP)] {
        for how in [READ, WRITE] {
            assert_eq!(tree.open_file(name.as_bytes(), how).err(), Some(expected), "{name}");
        }
    }
    for name in ["fifo", "link", "socket"] {
        assert_eq!(tree.open_dir(name.as_bytes()).err(), Some(Errno::ENOTDIR), "{name}");
    }
    // A writer would find a reader if the FIFO had been opened.
    let path = CString::new(scene.inside("fifo").to_str().unwrap()).unwrap();
    assert_eq!(fs::open(&*path, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()).err(), Some(rustix::io::Errno::NXIO));
    // The host's devices: seen, not opened.
    let dev = open_tree(Path::new("/dev")).unwrap();
    assert_eq!(dev.entry_metadata(b"null").unwrap().kind, HostKind::CharDevice);
    assert_eq!(dev.open_file(b"null", READ).err(), Some(Errno::ENXIO));
}

#[test]
fn symbolic_links_are_read_but_never_followed() {
    let scene = Scene::new();
    let tree = scene.tree();
    let outside = scene.path.join("out");
    symlink(&outside, scene.inside("absolute")).unwrap();
    symlink("../out", scene.inside("relative")).unwrap();
    symlink("../out/f", scene.inside("file")).unwrap();
    assert_eq!(tree.read_link(b"relative").unwrap(), b"../out");
    assert_eq!(tree.entry_metadata(b"absolute").unwrap().kind, HostKind::Symlink);
    for name in [&b"absolute"[..], b"relative"] {
        assert_eq!(tree.open_dir(name).err(), Some(Errno::ENOTDIR));
    }
    assert_eq!(tree.open_file(b"file", READ).err(), Some(Errno::ELOOP));
    assert_eq!(tree.set_mode(b"file", 0o777).err(), Some(Errno::EOPNOTSUPP));
    tree.set_times(b"file", None, Some(1)).unwrap();
    tree.link(b"file", &*tree, b"again").unwrap();
    assert_eq!(tree.entry_metadata(b"again").unwrap().kind, HostKind::Symlink);
    let secret = std::fs::metadata(outside.join("f")).unwrap();
    assert_ne!(secret.mtime_nsec(), 1);
    assert_ne!(secret.mode() & 0o7777, 0o777);
}

/// Swaps `a` and `b` for ever.
fn swapping<R>(a: PathBuf, b: PathBuf, attack: impl FnOnce() -> R) -> R {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                fs::renameat_with(fs::CWD, &a, fs::CWD, &b, fs::RenameFlags::EXCHANGE).unwrap();
            }
        });
        let result = attack();
        stop.store(true, Ordering::Relaxed);
        result
    })
}

#[test]
fn swapping_a_directory_for_a_symbolic_link_never_leads_outside() {
    for openat2 in [true, false] {
        sys::use_openat2(openat2);
        let scene = Scene::new();
        std::fs::create_dir(scene.inside("d")).unwrap();
        scene.write("d/f", "public");
        scene.write("file", "public");
        symlink("../../out", scene.path.join("trap")).unwrap();
        symlink("../out", scene.inside("link")).unwrap();
        symlink("../out/f", scene.inside("filelink")).unwrap();
        let tree = scene.tree();
        let mut naive_was_fooled = false;
        let mut read = 0;
        let end = Instant::now() + Duration::from_millis(400 * scale());
        swapping(scene.inside("d"), scene.inside("link"), || {
            while Instant::now() < end {
                // What a server does that trusts paths: the attack must be able to succeed at all.
                naive_was_fooled |= std::fs::read(scene.inside("d/f")).is_ok_and(|data| data == b"SECRET");
                if let Ok(file) = tree.open_dir(b"d").and_then(|d| d.open_file(b"f", READ)) {
                    assert_eq!(contents(&*file), "public");
                    read += 1;
                }
                for name in [&b"d"[..], b"link"] {
                    let _ = tree.set_mode(name, 0o755);
                    if let Ok(d) = tree.open_dir(name) {
                        assert!(d.entry_metadata(b"f").is_ok_and(|m| m.size_bytes == 6));
                    }
                }
            }
        });
        let end = Instant::now() + Duration::from_millis(300 * scale());
        swapping(scene.inside("file"), scene.inside("filelink"), || {
            while Instant::now() < end {
                for how in [READ, WRITE] {
                    if let Ok(file) = tree.open_file(b"file", how) {
                        assert_eq!(contents(&*file), "public");
                        read += 1;
                    }
                }
                let _ = tree.set_mode(b"file", 0o600);
                let _ = tree.set_times(b"file", None, Some(7));
            }
        });
        assert!(naive_was_fooled, "the attack works against an unconfined reader");
        assert!(read > 0, "and the confined one still reads");
        let secret = std::fs::metadata(scene.path.join("out/f")).unwrap();
        assert!(secret.mode() & 0o777 != 0o600 && secret.mtime_nsec() != 7, "the secret's metadata is untouched");
    }
    sys::use_openat2(true);
}

#[test]
fn a_directory_moved_away_and_replaced_is_stale_once_its_descriptor_is_closed() {
    let scene = Scene::new();
    for i in 0..64 {
        std::fs::create_dir(scene.inside(&format!("d{i}"))).unwrap();
        scene.write(&format!("d{i}/f"), &i.to_string());
    }
    let descriptors = Descriptors::new(8);
    let tree = open_tree_with(&scene.path.join("in"), descriptors.clone()).unwrap();
    let dirs: Vec<_> = (0..64).map(|i| tree.open_dir(format!("d{i}").as_bytes()).unwrap()).collect();
    assert!(descriptors.len() <= 8);
    // d0's descriptor is long closed. Somebody puts a link to the outside in its place.
    std::fs::rename(scene.inside("d0"), scene.path.join("gone")).unwrap();
    symlink("../out", scene.inside("d0")).unwrap();
    assert_eq!(dirs[0].open_file(b"f", READ).err(), Some(Errno::ESTALE));
    assert_eq!(dirs[0].entries().err(), Some(Errno::ESTALE));
    // And another directory.
    std::fs::rename(scene.inside("d1"), scene.path.join("gone1")).unwrap();
    std::fs::create_dir(scene.inside("d1")).unwrap();
    scene.write("d1/f", "other");
    assert_eq!(dirs[1].open_file(b"f", READ).err(), Some(Errno::ESTALE));
    for (i, dir) in dirs.iter().enumerate().skip(2) {
        assert_eq!(contents(&*dir.open_file(b"f", READ).unwrap()), i.to_string());
    }
}

#[test]
fn a_thousand_held_files_need_a_handful_of_descriptors() {
    let scene = Scene::new();
    let descriptors = Descriptors::new(16);
    let tree = open_tree_with(&scene.path.join("in"), descriptors.clone()).unwrap();
    let mut held = Vec::new();
    for i in 0..1000u32 {
        let file = tree.open_file(format!("f{i}").as_bytes(), HostOpen { write: true, create_mode: Some(0o600) }).unwrap();
        file.write_at(0, i.to_string().as_bytes()).unwrap();
        held.push(file);
    }
    // A rename of ours is followed, with the descriptor closed.
    tree.make_dir(b"sub", 0o755).unwrap();
    let sub = tree.open_dir(b"sub").unwrap();
    tree.rename(b"f0", &*sub, b"moved", false, false).unwrap();
    tree.rename(b"f1", &*tree, b"f2", false, true).unwrap();
    for (i, file) in held.iter().enumerate() {
        assert_eq!(contents(&**file), i.to_string());
    }
    assert!(descriptors.len() <= 16);
    drop(held);
    assert!(descriptors.len() <= 16);
}

#[test]
fn an_open_file_outlives_its_name() {
    let scene = Scene::new();
    let descriptors = Descriptors::new(8);
    let tree = open_tree_with(&scene.path.join("in"), descriptors.clone()).unwrap();
    scene.write("a", "unlinked");
    scene.write("b", "replaced");
    scene.write("c", "new");
    let (a, b) = (tree.open_file(b"a", READ).unwrap(), tree.open_file(b"b", WRITE).unwrap());
    tree.unlink(b"a").unwrap();
    tree.rename(b"c", &*tree, b"b", false, false).unwrap();
    let others: Vec<_> =
        (0..40).map(|i| tree.open_file(format!("o{i}").as_bytes(), HostOpen { write: true, create_mode: Some(0o600) }).unwrap()).collect();
    assert_eq!(contents(&*a), "unlinked");
    assert_eq!(contents(&*b), "replaced");
    assert_eq!(contents(&*tree.open_file(b"b", READ).unwrap()), "new");
    assert_eq!(tree.rename(b"b", &*tree, b"o1", true, false).err(), Some(Errno::EEXIST));
    // Too many files without a name: refused before the name is gone.
    let mut refused = 0;
    for i in 0..40 {
        if tree.unlink(format!("o{i}").as_bytes()) == Err(Errno::ENFILE) {
            refused += 1;
        }
    }
    assert!(refused > 0);
    drop(others);
    drop(a);
    assert!((0..40).all(|i| matches!(tree.unlink(format!("o{i}").as_bytes()), Ok(()) | Err(Errno::ENOENT))));
}

#[test]
fn a_tree_ten_thousand_directories_deep_is_walked_and_let_go_of_without_recursion() {
    let scene = Scene::new();
    let descriptors = Descriptors::new(8);
    let mut dir = open_tree_with(&scene.path.join("in"), descriptors.clone()).unwrap();
    let depth = 10_000;
    for _ in 0..depth {
        dir.make_dir(b"d", 0o755).unwrap();
        dir = dir.open_dir(b"d").unwrap();
    }
    // Everything on the way is closed but the last few; the deepest is evicted too.
    let root = open_tree_with(&scene.path.join("in"), descriptors.clone()).unwrap();
    for i in 0..16 {
        root.make_dir(format!("x{i}").as_bytes(), 0o755).unwrap();
        root.open_dir(format!("x{i}").as_bytes()).unwrap();
    }
    let held: Vec<_> = (0..16).map(|i| root.open_dir(format!("x{i}").as_bytes()).unwrap()).collect();
    assert_eq!(dir.entries().unwrap(), []);
    drop(held);
    drop(dir);
    // Flattened for the clean-up, which has a path too long otherwise.
    let mut top = root.open_dir(b"d").unwrap();
    root.rename(b"d", &*root, b"t", false, false).unwrap();
    loop {
        let Ok(next) = top.open_dir(b"d") else { break };
        top.rename(b"d", &*root, b"u", false, false).unwrap();
        root.remove_dir(b"t").unwrap();
        root.rename(b"u", &*root, b"t", false, false).unwrap();
        top = next;
    }
}

#[test]
fn a_lock_survives_the_closing_of_other_descriptors_and_names_its_holder() {
    let scene = Scene::new();
    scene.write("image", "data");
    let path = scene.inside("image");
    let image = open_image(&path, ImageOpen { write: true, ..ImageOpen::default() }).unwrap();
    image.lock(true).unwrap();
    assert_eq!(image.lock(false), Err((Errno::EAGAIN, Some(std::process::id() as i32))));
    let tree = scene.tree();
    for _ in 0..100 {
        drop(tree.open_file(b"image", READ).unwrap());
        drop(open_image(&path, ImageOpen::default()).unwrap());
    }
    let try_lock = |expected: &str| {
        let script = "import fcntl,sys\nf=open(sys.argv[1],'r+')\ntry:\n fcntl.lockf(f,fcntl.LOCK_EX|fcntl.LOCK_NB); print('free')\nexcept OSError: print('taken')";
        let Ok(output) = std::process::Command::new("python3").args(["-c", script]).arg(&path).output() else { return };
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), expected);
    };
    try_lock("taken");
    drop(image);
    try_lock("free");
    let (one, two) = (open_image(&path, ImageOpen::default()).unwrap(), open_image(&path, ImageOpen::default()).unwrap());
    one.lock(false).unwrap();
    two.lock(false).unwrap();
    drop(one);
    try_lock("taken");
    drop(two);
    try_lock("free");
}

#[test]
fn an_image_is_a_file_or_a_disk_and_nothing_else() {
    let scene = Scene::new();
    scene.tree().make_node(b"fifo", HostKind::Fifo, 0o666).unwrap();
    scene.write("image", "data");
    symlink("image", scene.inside("link")).unwrap();
    let open = |name: &str| open_image(&scene.inside(name), ImageOpen::default());
    assert_eq!(open("link").unwrap().metadata().unwrap().size_bytes, 4);
    assert_eq!(open("fifo").err(), Some(Errno::ENXIO));
    assert_eq!(open("").err(), Some(Errno::EISDIR));
    assert_eq!(open("missing").err(), Some(Errno::ENOENT));
    assert_eq!(open_image(Path::new("/dev/null"), ImageOpen::default()).err(), Some(Errno::ENXIO));
    let made = open_image(&scene.inside("new"), ImageOpen { write: true, synchronous: true, create_mode: Some(0o600) }).unwrap();
    made.set_len(1 << 20).unwrap();
    made.write_at(0, &[1; 8192]).unwrap();
    made.punch(0, 4096).unwrap_or_else(|errno| assert_eq!(errno, Errno::EOPNOTSUPP));
    assert!(std::fs::metadata(scene.inside("fifo")).unwrap().file_type().is_fifo());
}

#[test]
fn fibers_and_threads_read_a_cold_file_through_the_helpers() {
    let scene = Scene::new();
    let data: Vec<u8> = (0..1 << 20).map(|i: u32| (i / 7) as u8).collect();
    std::fs::write(scene.inside("big"), &data).unwrap();
    let file = scene.tree().open_file(b"big", READ).unwrap();
    file.sync(false).unwrap();
    let fd = std::fs::File::open(scene.inside("big")).unwrap();
    let _ = fs::fadvise(&fd, 0, None, fs::Advice::DontNeed);
    std::thread::scope(|scope| {
        for i in 0..12u64 {
            let (file, data) = (&file, &data);
            scope.spawn(move || {
                let offset = i * 80_000;
                let mut buffer = vec![0; 131_072];
                let n = file.read_at(offset, &mut buffer).unwrap();
                assert_eq!(&buffer[..n], &data[offset as usize..(offset as usize + 131_072).min(data.len())]);
            });
        }
    });
    assert_eq!(file.read_at(1 << 20, &mut [0; 10]), Ok(0));
    assert_eq!(file.read_at(u64::MAX, &mut [0; 10]).err(), Some(Errno::EINVAL));
}

//! Boot: from an empty machine to its first process.

use crate::cgroupfs::CgroupFs;
use crate::config::{Config, End, Root, Streams};
use crate::console;
use crate::disks::Disks;
use crate::machine::Machine;
use crate::run;
use crate::wiring::INFO;
use abi::{Errno, SysError};
use drivers::devpts::DevPtsType;
use fs::devtmpfs::Devtmpfs;
use fs::ext4::ExtType;
use fs::sysfs::Sysfs;
use fs::tmpfs::{Options, Tmpfs, TmpfsType};
use mm::AddressSpace;
use std::path::Path as HostPath;
use std::sync::Arc;
use task::{Current, Shared};
use vfs::{Caller, Credentials, FdTable, FsContext, MountFlags, MountNamespace, OnExec, PathAt};

/// The kernel's own view of files before there is a process.
struct Start {
    credentials: Arc<Credentials>,
    fs: Arc<FsContext>,
    namespace: Arc<MountNamespace>,
}

impl Start {
    fn caller<'a>(&'a self, machine: &Machine) -> Caller<'a> {
        Caller { vfs: machine.vfs, credentials: &self.credentials, fs: &self.fs, namespace: &self.namespace, file_size_limit: u64::MAX }
    }
}

/// Descriptors of the first process never are many.
const FD_LIMIT: u64 = 1024;

/// Boots; when it returns `Ok` the first process runs.
pub fn boot(machine: &Machine, config: &Config) -> Result<(), End> {
    if config.lines.early_messages {
        console::show_early(machine, config);
    }
    banner(machine, config);
    let failed = |what: &'static str| move |errno: Errno| End::NotStarted(format!("{what}: {errno}"));
    let entropy: fs::devices::Entropy = Arc::new(host::checks::entropy);
    fs::devices::register(machine.vfs, entropy).map_err(failed("the memory devices could not be made"))?;
    let proc = crate::procfs::make(machine, &config.command_line);
    crate::management::make_files(machine, config, &proc);
    let devtmpfs = Devtmpfs::new(machine.vfs).map_err(failed("devtmpfs could not be made"))?;
    let cgroupfs = CgroupFs::new(machine.system);
    let _ = machine.cgroups.set(cgroupfs.clone());
    let sysfs = Sysfs::new(machine.vfs);
    for kind in [
        Arc::new(TmpfsType::TMPFS) as Arc<dyn vfs::FileSystemType>,
        Arc::new(TmpfsType::RAMFS),
        devtmpfs.clone(),
        proc.clone(),
        sysfs.clone(),
        cgroupfs,
    ] {
        machine.vfs.register_type(kind);
    }
    let ext = ExtType::all();
    for kind in &ext {
        machine.vfs.register_type(kind.clone());
    }
    DevPtsType::register(machine.vfs, machine.jobs.clone()).map_err(failed("the pseudoterminals could not be made"))?;
    let consoles = console::make(machine, config).map_err(failed("the console could not be opened"))?;
    console::make_files(&proc, &consoles);
    let disks = crate::disks::make(machine, config);
    let networks = crate::network::make(machine, config, &sysfs, &proc);
    if config.program.search_path {
        // A command that was promised a network does not start without.
        networks.map_err(End::NotStarted)?;
    } else {
        crate::flusher::start(machine).map_err(failed("write-back to the disks could not be started"))?;
    }
    let start = make_root(machine, config, &disks, &ext)?;
    let caller = start.caller(machine);
    mount_at(&caller, b"/dev", b"devtmpfs", b"").map_err(failed("/dev could not be mounted"))?;
    if config.program.search_path {
        // There is no init that would do it.
        mount_at(&caller, b"/proc", b"proc", b"").map_err(failed("/proc could not be mounted"))?;
        mount_at(&caller, b"/sys", b"sysfs", b"").map_err(failed("/sys could not be mounted"))?;
        mount_at(&caller, b"/sys/fs/cgroup", b"cgroup2", b"").map_err(failed("/sys/fs/cgroup could not be mounted"))?;
        mount_at(&caller, b"/dev/pts", b"devpts", b"gid=5,mode=620,ptmxmode=666").map_err(failed("/dev/pts could not be mounted"))?;
        mount_at(&caller, b"/dev/shm", b"tmpfs", b"mode=1777").map_err(failed("/dev/shm could not be mounted"))?;
        make_device_links(&devtmpfs.caller()).map_err(failed("the links in /dev could not be made"))?;
    }
    crate::network::set_up(machine, &caller, config);
    let files = match console::open(&caller, &consoles) {
        Ok(files) => files,
        Err(_) if config.streams == Streams::Console => {
            machine.vfs.log.print(4, "Warning: unable to open an initial console.");
            Vec::new()
        }
        Err(errno) => return Err(failed("the first process's standard streams could not be opened")(errno)),
    };
    let mut current = first_process(machine, &start, files).map_err(failed("the first process could not be made"))?;
    if config.program.search_path {
        // A command's terminal is the one it was started at. An init has none: it gives terminals to its sessions.
        if let Some(terminal) = &consoles.terminal {
            terminal.give_to(current.pid(), current.pid());
        }
        current.process().signals().set_unkillable(false);
        machine.system.table().tree.init_is_command = true;
    }
    crate::management::serve(machine, &config.management, &proc);
    exec_first(machine, config, &mut current)?;
    machine.scheduler.spawn(move || run::run(current)).map(drop).map_err(failed("the first process could not be started"))
}

/// What udev makes in `/dev` where it runs: names of the process's own descriptors.
fn make_device_links(caller: &Caller<'_>) -> Result<(), Errno> {
    let links: [(&[u8], &[u8]); 4] =
        [(b"fd", b"/proc/self/fd"), (b"stdin", b"/proc/self/fd/0"), (b"stdout", b"/proc/self/fd/1"), (b"stderr", b"/proc/self/fd/2")];
    for (name, target) in links {
        match caller.symlink(target, PathAt::cwd(name)).map_err(SysError::errno) {
            Ok(_) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn banner(machine: &Machine, config: &Config) {
    let log = |text: String| machine.vfs.log.print(INFO, &text);
    log(format!("Linux version {} (Umlaut {})", crate::RELEASE, env!("CARGO_PKG_VERSION")));
    log(format!("Kernel command line: {}", config.command_line));
    let ram = machine.system.ram.stats();
    log(format!("Memory: {}k available", (ram.free * abi::PAGE_SIZE) >> 10));
    log(format!("SMP: {} virtual processors", machine.scheduler.cpus()));
}

fn make_rootfs(machine: &Machine) -> Result<Start, Errno> {
    let tmpfs = Tmpfs::new(machine.system.ram, "rootfs", Options { mode: Some(0o755), ..Options::default() })?;
    let mount = machine.vfs.new_mount(tmpfs, b"rootfs", MountFlags::empty())?;
    let fs = FsContext::new(mount.root_path());
    let namespace = MountNamespace::new(mount);
    Ok(Start { credentials: Arc::new(Credentials::root()), fs, namespace })
}

fn make_root(machine: &Machine, config: &Config, disks: &Disks, ext: &[Arc<ExtType>]) -> Result<Start, End> {
    if let Root::HostTree(tree) = &config.root {
        let (fs, namespace) = crate::hosttree::mount(machine, config, tree)?;
        return Ok(Start { credentials: Arc::new(Credentials::root()), fs, namespace });
    }
    let start = make_rootfs(machine).map_err(|errno| End::NotStarted(format!("the root file system could not be made: {errno}")))?;
    match &config.root {
        Root::Initramfs(archive) => unpack(machine, &start, archive)?,
        Root::HostDirectory(dir) => crate::hosttree::mount_directory(machine, &start.caller(machine), dir, config.root_read_only)?,
        Root::Device(name) => crate::disks::root::mount(machine, disks, &start.caller(machine), config, name, ext)?,
        Root::HostTree(_) => {}
    }
    Ok(start)
}

fn unpack(machine: &Machine, start: &Start, archive: &HostPath) -> Result<(), End> {
    let mut source = host::start::open_archive(archive).map_err(End::NotStarted)?;
    let caller = start.caller(machine);
    let root = start.fs.root();
    match fs::cpio::unpack_into(&caller, &root, &mut source) {
        Ok(done) => {
            machine.vfs.log.print(INFO, &format!("Unpacked initramfs: {} entries, {} KiB", done.entries, done.data_bytes >> 10));
            Ok(())
        }
        Err((error, done)) => {
            Err(End::NotStarted(format!("the initramfs {} can't be used: {error} (after {} entries)", archive.display(), done.entries)))
        }
    }
}

/// Mounts a file system of type `kind` with these options on a directory, which is made if need be.
pub fn mount_at(caller: &Caller<'_>, target: &[u8], kind: &[u8], options: &[u8]) -> Result<(), Errno> {
    match make_directory(caller, target) {
        // A read-only root has what it has.
        Ok(()) | Err(Errno::EROFS) => {}
        Err(errno) => return Err(errno),
    }
    caller.mount(kind, PathAt::cwd(target), kind, MountFlags::empty(), options).map_err(SysError::errno)
}

/// Makes a directory unless it is there.
pub fn make_directory(caller: &Caller<'_>, path: &[u8]) -> Result<(), Errno> {
    match caller.mkdir(PathAt::cwd(path), 0o755).map_err(SysError::errno) {
        Ok(_) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn first_process(machine: &Machine, start: &Start, files: Vec<Arc<vfs::OpenFile>>) -> Result<Current, Errno> {
    let table = FdTable::new(machine.system.ram);
    for file in files {
        table.add(file, FD_LIMIT, OnExec::Keep)?;
    }
    let space = machine.system.platform.new_space()?;
    let memory = AddressSpace::new(machine.system.ram, space, mm::Limits::default())?;
    let shared = Shared { memory, files: table, fs: start.fs.clone(), namespace: start.namespace.clone() };
    machine.system.first_process(shared, b"init")
}

/// Runs the first program: the first candidate that is there, or the command by its path or along `PATH`.
fn exec_first(machine: &Machine, config: &Config, current: &mut Current) -> Result<(), End> {
    let program = &config.program;
    if program.search_path {
        return exec_command(config, current);
    }
    for candidate in &program.candidates {
        let mut argv = vec![candidate.clone()];
        argv.extend(program.argv.iter().cloned());
        match current.exec(None, candidate, argv, program.environment.clone(), 0) {
            Ok(()) => {
                machine.vfs.log.print(INFO, &format!("Run {} as init process", String::from_utf8_lossy(candidate)));
                return Ok(());
            }
            Err(error) if error.errno() == Errno::ENOENT => {}
            Err(error) => {
                let text =
                    format!("Starting init: {} exists but couldn't execute it ({})", String::from_utf8_lossy(candidate), error.errno());
                machine.vfs.log.print(3, &text);
            }
        }
    }
    let text = "Kernel panic - not syncing: No working init found.  Try passing init= option to kernel. See Linux Documentation/admin-guide/init.rst for guidance.";
    machine.vfs.log.print(0, text);
    Err(End::Panicked(text.into()))
}

fn exec_command(config: &Config, current: &mut Current) -> Result<(), End> {
    let program = &config.program;
    let name = program.argv.first().cloned().unwrap_or_default();
    let candidates: Vec<Vec<u8>> = if name.contains(&b'/') {
        vec![name.clone()]
    } else {
        let path = program.environment.iter().find_map(|v| v.strip_prefix(b"PATH=")).unwrap_or(b"/usr/bin:/bin");
        path.split(|b| *b == b':').map(|dir| [dir, b"/", &name].concat()).collect()
    };
    let shown = String::from_utf8_lossy(&name).into_owned();
    let mut worst = Errno::ENOENT;
    for candidate in candidates {
        match current.exec(None, &candidate, program.argv.clone(), program.environment.clone(), 0).map_err(SysError::errno) {
            Ok(()) => return Ok(()),
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(errno) => worst = errno,
        }
    }
    Err(match worst {
        Errno::ENOENT => End::NotRun(127, format!("{shown}: there is no such command in the machine")),
        Errno::ENOEXEC => End::NotRun(126, format!("{shown}: it is not a program for x86-64 Linux, nor a script with an interpreter line")),
        errno => End::NotRun(126, format!("{shown}: it can't be run ({errno})")),
    })
}

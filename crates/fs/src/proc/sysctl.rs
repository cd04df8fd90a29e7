//! `/proc/sys`: the settings of the kernel, proc_sys(5).
//!
//! What decides something is read from where it decides ([`Setting::get`] and `set` of whoever registers it); the rest keeps a number that programs
//! read and write, and says so by its name here: *kept*.

use super::Proc;
use super::system::fixed;
use crate::kernfs::{FileSpec, line, parse};
use abi::Errno;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicUsize, Ordering};
use sync::SpinLock;
use vfs::Vfs;

/// A setting below `/proc/sys`.
pub struct Setting {
    path: &'static str,
    mode: u32,
    spec: FileSpec,
}

impl Setting {
    /// A setting that only shows something.
    pub fn shows(path: &'static str, text: impl Fn() -> String + Send + Sync + 'static) -> Setting {
        Setting { path, mode: 0o444, spec: FileSpec::text(move || text() + "\n") }
    }
    /// A number between `min` and `max` that lies somewhere else. EINVAL for others.
    pub fn number(
        path: &'static str,
        (min, max): (i64, i64),
        get: impl Fn() -> i64 + Send + Sync + 'static,
        set: impl Fn(i64) -> Result<(), Errno> + Send + Sync + 'static,
    ) -> Setting {
        let spec = FileSpec::show(move |_| Ok(line(get()))).store(move |_, data| {
            let value: i64 = parse(data)?;
            if !(min..=max).contains(&value) {
                return Err(Errno::EINVAL.into());
            }
            set(value)?;
            Ok(())
        });
        Setting { path, mode: 0o644, spec }
    }
    /// A text of at most `max` bytes; writes end at the first newline or NUL.
    pub fn text(
        path: &'static str,
        max: usize,
        get: impl Fn() -> String + Send + Sync + 'static,
        set: impl Fn(&str) -> Result<(), Errno> + Send + Sync + 'static,
    ) -> Setting {
        let spec = FileSpec::text(move || get() + "\n").store(move |_, data| {
            let end = data.iter().position(|b| *b == b'\n' || *b == 0).unwrap_or(data.len()).min(max);
            let text = data.get(..end).and_then(|text| std::str::from_utf8(text).ok()).ok_or(Errno::EINVAL)?;
            Ok(set(text)?)
        });
        Setting { path, mode: 0o644, spec }
    }
    /// A number that is kept and decides nothing.
    #[must_use]
    pub fn kept(path: &'static str, range: (i64, i64), value: i64) -> Setting {
        let value = Arc::new(AtomicI64::new(value));
        let set = value.clone();
        Setting::number(
            path,
            range,
            move || value.load(Ordering::Relaxed),
            move |new| {
                set.store(new, Ordering::Relaxed);
                Ok(())
            },
        )
    }
    /// A text that is kept and decides nothing.
    #[must_use]
    pub fn kept_text(path: &'static str, value: &str) -> Setting {
        let value = Arc::new(SpinLock::new(value.to_owned()));
        let set = value.clone();
        Setting::text(
            path,
            4096,
            move || value.lock().clone(),
            move |new| {
                let old = std::mem::replace(&mut *set.lock(), new.to_owned());
                drop(old);
                Ok(())
            },
        )
    }
}

/// Hangs settings below `/proc/sys`. A second one of the same path replaces the first.
pub fn register_sysctls(proc: &Arc<Proc>, settings: impl IntoIterator<Item = Setting>) {
    for setting in settings {
        proc.tree().file(&format!("sys/{}", setting.path), setting.mode, setting.spec);
    }
}

fn static_usize(path: &'static str, (min, max): (i64, i64), value: &'static AtomicUsize) -> Setting {
    Setting::number(
        path,
        (min, max),
        move || value.load(Ordering::Relaxed) as i64,
        move |new| {
            value.store(new as usize, Ordering::Relaxed);
            Ok(())
        },
    )
}

fn atomic_u32(path: &'static str, range: (i64, i64), value: &'static AtomicU32) -> Setting {
    Setting::number(
        path,
        range,
        move || i64::from(value.load(Ordering::Relaxed)),
        move |new| {
            value.store(new as u32, Ordering::Relaxed);
            Ok(())
        },
    )
}

const ANY: (i64, i64) = (0, i64::MAX);
const INT: (i64, i64) = (0, i32::MAX as i64);
const BOOL: (i64, i64) = (0, 1);

/// Settings of files and memory, and those that programs expect and that decide nothing here.
pub(super) fn register_own(proc: &Arc<Proc>, vfs: &'static Vfs) {
    let tree = proc.tree();
    let drop_caches = FileSpec::show(|_| Ok(line(0))).store(move |_, data| {
        match parse::<i64>(data)? {
            what @ 1..=4 => {
                if what & 1 != 0 {
                    vfs.page_caches.drop_clean();
                }
                if what & 2 != 0 {
                    vfs.dentries().evict(usize::MAX);
                }
            }
            _ => return Err(Errno::EINVAL.into()),
        }
        Ok(())
    });
    tree.file("sys/vm/drop_caches", 0o200, drop_caches);
    tree.file("sys/fs/dentry-state", 0o444, FileSpec::text(move || format!("{}\t0\t45\t0\t0\t0\n", vfs.dentries().len())));
    tree.file("sys/fs/inode-nr", 0o444, FileSpec::text(move || format!("{}\t0\n", vfs.dentries().len())));
    tree.file("sys/fs/inode-state", 0o444, FileSpec::text(move || format!("{}\t0\t0\t0\t0\t0\t0\n", vfs.dentries().len())));
    tree.file("sys/fs/file-nr", 0o444, FileSpec::text(move || format!("{}\t0\t{}\n", vfs::open_files(), i64::MAX)));
    tree.file("sys/kernel/cap_last_cap", 0o444, fixed(40));
    tree.file("sys/kernel/ngroups_max", 0o444, fixed(65536));
    tree.dir("sys/fs/binfmt_misc");
    register_sysctls(
        proc,
        [
            static_usize("fs/pipe-max-size", (4096, 1 << 31), &vfs::PIPE_MAX_SIZE),
            static_usize("fs/inotify/max_queued_events", INT, &crate::inotify::MAX_EVENTS),
            static_usize("fs/inotify/max_user_watches", INT, &crate::inotify::MAX_WATCHES),
            Setting::kept("fs/inotify/max_user_instances", INT, 128),
            Setting::kept("fs/epoll/max_user_watches", ANY, 1 << 20),
            Setting::kept("fs/file-max", ANY, i64::MAX),
            Setting::kept("fs/nr_open", (8, INT.1), 1 << 20),
            Setting::kept("fs/mount-max", INT, 100_000),
            Setting::kept("fs/aio-max-nr", ANY, 65536),
            Setting::kept("fs/lease-break-time", INT, 45),
            Setting::kept("fs/leases-enable", BOOL, 1),
            Setting::kept("fs/suid_dumpable", (0, 2), 0),
            atomic_u32("fs/protected_hardlinks", BOOL, &vfs.protections.hardlinks),
            atomic_u32("fs/protected_symlinks", BOOL, &vfs.protections.symlinks),
            atomic_u32("fs/protected_fifos", (0, 2), &vfs.protections.fifos),
            atomic_u32("fs/protected_regular", (0, 2), &vfs.protections.regular),
            Setting::kept("fs/pipe-user-pages-soft", ANY, 16384),
            Setting::kept("fs/pipe-user-pages-hard", ANY, 0),
            Setting::kept("fs/overflowuid", (0, 65535), 65534),
            Setting::kept("fs/overflowgid", (0, 65535), 65534),
            Setting::kept("kernel/overflowuid", (0, 65535), 65534),
            Setting::kept("kernel/overflowgid", (0, 65535), 65534),
            Setting::kept("kernel/core_uses_pid", BOOL, 0),
            Setting::kept_text("kernel/core_pattern", "core"),
            Setting::kept("kernel/core_pipe_limit", INT, 0),
            Setting::kept_text("kernel/printk", "4\t4\t1\t7"),
            Setting::kept("kernel/printk_ratelimit", INT, 5),
            Setting::kept("kernel/panic", (-1, INT.1), 0),
            Setting::kept("kernel/panic_on_oops", BOOL, 0),
            Setting::kept("kernel/sysrq", INT, 1),
            Setting::kept("kernel/dmesg_restrict", BOOL, 0),
            Setting::kept("kernel/kptr_restrict", (0, 2), 0),
            Setting::kept("kernel/randomize_va_space", (0, 2), 2),
            Setting::kept("kernel/perf_event_paranoid", (-1, 4), 2),
            Setting::kept("kernel/unprivileged_bpf_disabled", (0, 2), 2),
            Setting::kept("kernel/sched_autogroup_enabled", BOOL, 0),
            Setting::kept("kernel/hung_task_timeout_secs", INT, 0),
            Setting::kept("kernel/keys/root_maxkeys", INT, 1_000_000),
            Setting::kept("kernel/keys/root_maxbytes", INT, 25_000_000),
            Setting::kept_text("kernel/modprobe", "/sbin/modprobe"),
            Setting::kept_text("kernel/hotplug", ""),
            Setting::kept("kernel/poweroff_cmd_seconds", INT, 0),
            Setting::kept("vm/overcommit_memory", (0, 2), 0),
            Setting::kept("vm/overcommit_ratio", INT, 50),
            Setting::kept("vm/overcommit_kbytes", ANY, 0),
            Setting::kept("vm/max_map_count", INT, 65530),
            Setting::kept("vm/swappiness", (0, 200), 60),
            Setting::kept("vm/mmap_min_addr", ANY, abi::arch::MMAP_MIN_ADDR as i64),
            Setting::kept("vm/dirty_ratio", (0, 100), 20),
            Setting::kept("vm/dirty_background_ratio", (0, 100), 10),
            Setting::kept("vm/dirty_expire_centisecs", INT, 3000),
            Setting::kept("vm/dirty_writeback_centisecs", INT, 500),
            Setting::kept("vm/min_free_kbytes", INT, 1024),
            Setting::kept("vm/vfs_cache_pressure", INT, 100),
            Setting::kept("vm/nr_hugepages", ANY, 0),
            Setting::kept("vm/panic_on_oom", (0, 2), 0),
            Setting::kept("vm/oom_kill_allocating_task", BOOL, 0),
        ],
    );
}

//! The table: number, family, name, and the types of the arguments. `arch/x86/entry/syscalls/syscall_64.tbl` has the numbers.

use crate::args::{Answer, Argument, Fd, UserAddr, UserRef};
use crate::{
    credentials, descriptor, events, exec, file, futex, ioprio, klog, lock, memory, mount, path, pidfd, poll, process, ptrace, resource,
    sched, seccomp, signal, signalfd, socket, splice, system, sysv, time, timer, unimplemented, xattr,
};
use abi::{AltStack, Errno, Itimerspec, Itimerval, Rlimit, Rusage, SigAction, Timespec, Timeval};
use task::{Current, Outcome};

macro_rules! table {
    ($($number:literal => $family:ident::$name:ident($($arg:ident: $ty:ty),*);)*) => {
        fn dispatch(current: &mut Current, number: u64, args: [u64; 6]) -> Option<Outcome> {
            let mut registers = args.into_iter();
            Some(match number {
                $($number => {
                    $(let $arg = match <$ty as Argument>::from_raw(registers.next().unwrap_or(0)) {
                        Ok(value) => value,
                        Err(errno) => return Some(Outcome::Error(errno.into())),
                    };)*
                    Answer::outcome($family::$name(current, $($arg),*))
                })*
                _ => return None,
            })
        }

        /// The name of a call that has a handler.
        fn handled_name(number: u64) -> Option<&'static str> {
            match number {
                $($number => Some(stringify!($name)),)*
                _ => None,
            }
        }

        #[cfg(test)]
        pub(crate) const NUMBERS: &[(u64, &str)] = &[$(($number, stringify!($name))),*];
    };
}

/// Calls that an unconfigured kernel answers with something else than ENOSYS, or that we name in the log.
macro_rules! absent {
    ($($number:literal => $name:ident $errno:ident;)*) => {
        #[cfg(test)]
        pub(crate) const ABSENT: &[(u64, &str, Errno)] = &[$(($number, stringify!($name), Errno::$errno)),*];

        fn absent(number: u64) -> Option<(&'static str, Errno)> {
            match number {
                $($number => Some((stringify!($name), Errno::$errno)),)*
                _ => None,
            }
        }
    };
}

table! {
      0 => file::read(fd: i32, buf: UserAddr, len: usize);
      1 => file::write(fd: i32, buf: UserAddr, len: usize);
      2 => path::open(path: UserAddr, flags: u32, mode: u32);
      3 => path::close(fd: i32);
      4 => path::stat(path: UserAddr, out: UserRef<path::Stat>);
      5 => path::fstat(fd: i32, out: UserRef<path::Stat>);
      6 => path::lstat(path: UserAddr, out: UserRef<path::Stat>);
      7 => poll::poll(fds: UserAddr, count: u32, timeout_ms: i32);
      8 => file::lseek(fd: i32, offset: i64, whence: u32);
      9 => memory::mmap(addr: u64, len: u64, prot: u32, flags: u32, fd: i32, offset: u64);
     10 => memory::mprotect(addr: u64, len: u64, prot: u32);
     11 => memory::munmap(addr: u64, len: u64);
     12 => memory::brk(addr: u64);
     13 => signal::rt_sigaction(signal: i32, new: Option<UserRef<SigAction>>, old: Option<UserRef<SigAction>>, size: usize);
     14 => signal::rt_sigprocmask(how: u32, set: Option<UserRef<u64>>, old: Option<UserRef<u64>>, size: usize);
     15 => signal::rt_sigreturn();
     16 => descriptor::ioctl(fd: i32, command: u32, argument: u64);
     17 => file::pread64(fd: i32, buf: UserAddr, len: usize, offset: i64);
     18 => file::pwrite64(fd: i32, buf: UserAddr, len: usize, offset: i64);
     19 => file::readv(fd: i32, iov: UserAddr, count: usize);
     20 => file::writev(fd: i32, iov: UserAddr, count: usize);
     21 => path::access(path: UserAddr, mode: u32);
     22 => descriptor::pipe(fds: UserRef<[i32; 2]>);
     23 => poll::select(count: i32, read: u64, write: u64, except: u64, timeout: UserRef<Timeval>);
     24 => sched::sched_yield();
     25 => memory::mremap(old: u64, old_len: u64, new_len: u64, flags: u32, new: u64);
     26 => memory::msync(addr: u64, len: u64, flags: u32);
     27 => memory::mincore(addr: u64, len: u64, out: u64);
     28 => memory::madvise(addr: u64, len: u64, advice: i32);
     29 => sysv::shmget(key: i32, size: u64, flags: u32);
     30 => sysv::shmat(id: i32, addr: u64, flags: u32);
     31 => sysv::shmctl(id: i32, command: u32, buffer: u64);
     32 => descriptor::dup(fd: i32);
     33 => descriptor::dup2(from: i32, to: i32);
     34 => signal::pause();
     35 => time::nanosleep(request: UserRef<Timespec>, remaining: Option<UserRef<Timespec>>);
     36 => timer::getitimer(which: i32, to: UserRef<Itimerval>);
     37 => timer::alarm(seconds: u32);
     38 => timer::setitimer(which: i32, new: Option<UserRef<Itimerval>>, old: Option<UserRef<Itimerval>>);
     39 => process::getpid();
     40 => file::sendfile(out: i32, input: i32, offset: UserRef<i64>, count: usize);
     41 => socket::socket(domain: i32, kind: u32, protocol: i32);
     42 => socket::connect(fd: i32, address: UserAddr, len: i32);
     43 => socket::accept(fd: i32, address: UserAddr, len: UserRef<i32>);
     44 => socket::sendto(fd: i32, buf: UserAddr, len: usize, flags: u32, address: UserAddr, address_len: i32);
     45 => socket::recvfrom(fd: i32, buf: UserAddr, len: usize, flags: u32, address: UserAddr, address_len: UserRef<i32>);
     46 => socket::sendmsg(fd: i32, message: UserRef<socket::MsgHdr>, flags: u32);
     47 => socket::recvmsg(fd: i32, message: UserRef<socket::MsgHdr>, flags: u32);
     48 => socket::shutdown(fd: i32, how: i32);
     49 => socket::bind(fd: i32, address: UserAddr, len: i32);
     50 => socket::listen(fd: i32, backlog: i32);
     51 => socket::getsockname(fd: i32, address: UserAddr, len: UserRef<i32>);
     52 => socket::getpeername(fd: i32, address: UserAddr, len: UserRef<i32>);
     53 => socket::socketpair(domain: i32, kind: u32, protocol: i32, fds: UserRef<[i32; 2]>);
     54 => socket::setsockopt(fd: i32, level: i32, name: i32, value: UserAddr, len: i32);
     55 => socket::getsockopt(fd: i32, level: i32, name: i32, value: UserAddr, len: UserRef<i32>);
     56 => process::clone(flags: u64, stack: u64, parent_tid: u64, child_tid: u64, tls: u64);
     57 => process::fork();
     58 => process::vfork();
     59 => exec::execve(path: UserAddr, argv: u64, envp: u64);
     60 => process::exit(status: i32);
     61 => process::wait4(pid: i32, status: Option<UserRef<i32>>, options: u32, rusage: Option<UserRef<Rusage>>);
     62 => process::kill(pid: i32, signal: i32);
     63 => system::uname(to: UserRef<[u8; 390]>);
     64 => sysv::semget(key: i32, count: i32, flags: u32);
     65 => sysv::semop(id: i32, operations: UserAddr, count: usize);
     66 => sysv::semctl(id: i32, index: i32, command: u32, argument: u64);
     67 => sysv::shmdt(addr: u64);
     68 => sysv::msgget(key: i32, flags: u32);
     69 => sysv::msgsnd(id: i32, message: u64, size: usize, flags: u32);
     70 => sysv::msgrcv(id: i32, message: u64, size: i64, kind: i64, flags: u32);
     71 => sysv::msgctl(id: i32, command: u32, buffer: u64);
     72 => descriptor::fcntl(fd: i32, command: u32, argument: u64);
     73 => lock::flock(fd: i32, operation: u32);
     74 => file::fsync(fd: i32);
     75 => file::fdatasync(fd: i32);
     76 => file::truncate(path: UserAddr, len: i64);
     77 => file::ftruncate(fd: i32, len: i64);
     78 => path::getdents(fd: i32, buf: UserAddr, len: u32);
     79 => path::getcwd(buf: UserAddr, len: usize);
     80 => path::chdir(path: UserAddr);
     81 => path::fchdir(fd: i32);
     82 => path::rename(from: UserAddr, to: UserAddr);
     83 => path::mkdir(path: UserAddr, mode: u32);
     84 => path::rmdir(path: UserAddr);
     85 => path::creat(path: UserAddr, mode: u32);
     86 => path::link(from: UserAddr, to: UserAddr);
     87 => path::unlink(path: UserAddr);
     88 => path::symlink(target: UserAddr, path: UserAddr);
     89 => path::readlink(path: UserAddr, buf: UserAddr, len: i32);
     90 => path::chmod(path: UserAddr, mode: u32);
     91 => path::fchmod(fd: i32, mode: u32);
     92 => path::chown(path: UserAddr, uid: u32, gid: u32);
     93 => path::fchown(fd: i32, uid: u32, gid: u32);
     94 => path::lchown(path: UserAddr, uid: u32, gid: u32);
     95 => path::umask(mask: u32);
     96 => time::gettimeofday(to: Option<UserRef<Timeval>>, zone: Option<UserRef<[i32; 2]>>);
     97 => resource::getrlimit(resource: u32, to: UserRef<Rlimit>);
     98 => resource::getrusage(who: i32, to: UserRef<Rusage>);
     99 => system::sysinfo(to: UserRef<system::Sysinfo>);
    100 => resource::times(to: Option<UserRef<[i64; 4]>>);
    101 => ptrace::ptrace(request: i64, pid: i32, addr: u64, data: u64);
    102 => credentials::getuid();
    103 => klog::syslog(action: u32, to: UserAddr, len: i32);
    104 => credentials::getgid();
    105 => credentials::setuid(uid: u32);
    106 => credentials::setgid(gid: u32);
    107 => credentials::geteuid();
    108 => credentials::getegid();
    109 => process::setpgid(pid: i32, group: i32);
    110 => process::getppid();
    111 => process::getpgrp();
    112 => process::setsid();
    113 => credentials::setreuid(real: u32, effective: u32);
    114 => credentials::setregid(real: u32, effective: u32);
    115 => credentials::getgroups(size: i32, list: UserRef<u32>);
    116 => credentials::setgroups(size: usize, list: UserRef<u32>);
    117 => credentials::setresuid(real: u32, effective: u32, saved: u32);
    118 => credentials::getresuid(real: UserRef<u32>, effective: UserRef<u32>, saved: UserRef<u32>);
    119 => credentials::setresgid(real: u32, effective: u32, saved: u32);
    120 => credentials::getresgid(real: UserRef<u32>, effective: UserRef<u32>, saved: UserRef<u32>);
    121 => process::getpgid(pid: i32);
    122 => credentials::setfsuid(uid: u32);
    123 => credentials::setfsgid(gid: u32);
    124 => process::getsid(pid: i32);
    125 => credentials::capget(header: UserRef<credentials::CapHeader>, data: UserAddr);
    126 => credentials::capset(header: UserRef<credentials::CapHeader>, data: UserRef<credentials::CapData>);
    127 => signal::rt_sigpending(set: UserRef<u64>, size: usize);
    128 => signal::rt_sigtimedwait(set: UserRef<u64>, info: UserAddr, timeout: Option<UserRef<Timespec>>, size: usize);
    129 => signal::rt_sigqueueinfo(pid: i32, signal: i32, info: UserRef<[u8; 128]>);
    130 => signal::rt_sigsuspend(set: UserRef<u64>, size: usize);
    131 => signal::sigaltstack(new: Option<UserRef<AltStack>>, old: Option<UserRef<AltStack>>);
    132 => path::utime(path: UserAddr, times: UserRef<[i64; 2]>);
    133 => path::mknod(path: UserAddr, mode: u32, device: u64);
    135 => process::personality(persona: u32);
    137 => path::statfs(path: UserAddr, out: UserRef<path::StatFsBuffer>);
    138 => path::fstatfs(fd: i32, out: UserRef<path::StatFsBuffer>);
    140 => sched::getpriority(which: u32, who: i32);
    141 => sched::setpriority(which: u32, who: i32, nice: i32);
    142 => sched::sched_setparam(pid: i32, param: UserRef<i32>);
    143 => sched::sched_getparam(pid: i32, param: UserRef<i32>);
    144 => sched::sched_setscheduler(pid: i32, policy: i32, param: UserRef<i32>);
    145 => sched::sched_getscheduler(pid: i32);
    146 => sched::sched_get_priority_max(policy: i32);
    147 => sched::sched_get_priority_min(policy: i32);
    148 => sched::sched_rr_get_interval(pid: i32, to: UserRef<Timespec>);
    149 => memory::mlock(addr: u64, len: u64);
    150 => memory::munlock(addr: u64, len: u64);
    151 => memory::mlockall(flags: u32);
    152 => memory::munlockall();
    153 => process::vhangup();
    155 => mount::pivot_root(new: UserAddr, put_old: UserAddr);
    157 => system::prctl(option: i32, a: u64, b: u64, c: u64, d: u64);
    158 => process::arch_prctl(operation: u32, addr: u64);
    159 => time::adjtimex(timex: UserRef<time::Timex>);
    160 => resource::setrlimit(resource: u32, from: UserRef<Rlimit>);
    161 => path::chroot(path: UserAddr);
    162 => file::sync();
    164 => time::settimeofday(from: Option<UserRef<Timeval>>, zone: u64);
    165 => mount::mount(source: UserAddr, target: UserAddr, kind: UserAddr, flags: u64, data: UserAddr);
    166 => mount::umount2(target: UserAddr, flags: u32);
    169 => system::reboot(magic: u32, magic2: u32, command: u32, argument: u64);
    170 => system::sethostname(from: UserAddr, len: i32);
    171 => system::setdomainname(from: UserAddr, len: i32);
    186 => process::gettid();
    187 => file::readahead(fd: i32, offset: i64, count: usize);
    188 => xattr::setxattr(path: UserAddr, name: UserAddr, value: UserAddr, size: usize, flags: u32);
    189 => xattr::lsetxattr(path: UserAddr, name: UserAddr, value: UserAddr, size: usize, flags: u32);
    190 => xattr::fsetxattr(fd: i32, name: UserAddr, value: UserAddr, size: usize, flags: u32);
    191 => xattr::getxattr(path: UserAddr, name: UserAddr, value: UserAddr, size: usize);
    192 => xattr::lgetxattr(path: UserAddr, name: UserAddr, value: UserAddr, size: usize);
    193 => xattr::fgetxattr(fd: i32, name: UserAddr, value: UserAddr, size: usize);
    194 => xattr::listxattr(path: UserAddr, out: UserAddr, size: usize);
    195 => xattr::llistxattr(path: UserAddr, out: UserAddr, size: usize);
    196 => xattr::flistxattr(fd: i32, out: UserAddr, size: usize);
    197 => xattr::removexattr(path: UserAddr, name: UserAddr);
    198 => xattr::lremovexattr(path: UserAddr, name: UserAddr);
    199 => xattr::fremovexattr(fd: i32, name: UserAddr);
    200 => process::tkill(tid: i32, signal: i32);
    201 => time::time(to: Option<UserRef<i64>>);
    202 => futex::futex(addr: UserAddr, op: u32, value: u32, fourth: u64, second: UserAddr, value3: u32);
    203 => sched::sched_setaffinity(pid: i32, len: usize, mask: UserAddr);
    204 => sched::sched_getaffinity(pid: i32, len: usize, mask: UserAddr);
    213 => events::epoll_create(size: i32);
    217 => path::getdents64(fd: i32, buf: UserAddr, len: u32);
    218 => process::set_tid_address(addr: UserAddr);
    219 => signal::restart_syscall();
    220 => sysv::semtimedop(id: i32, operations: UserAddr, count: usize, timeout: Option<UserRef<Timespec>>);
    221 => file::fadvise64(fd: i32, offset: i64, len: i64, advice: u32);
    222 => timer::timer_create(clock: i32, event: Option<UserRef<timer::SigEvent>>, id: UserRef<i32>);
    223 => timer::timer_settime(id: i32, flags: u32, new: UserRef<Itimerspec>, old: Option<UserRef<Itimerspec>>);
    224 => timer::timer_gettime(id: i32, to: UserRef<Itimerspec>);
    225 => timer::timer_getoverrun(id: i32);
    226 => timer::timer_delete(id: i32);
    227 => time::clock_settime(clock: i32, from: UserRef<Timespec>);
    228 => time::clock_gettime(clock: i32, to: UserRef<Timespec>);
    229 => time::clock_getres(clock: i32, to: Option<UserRef<Timespec>>);
    230 => time::clock_nanosleep(clock: i32, flags: u32, request: UserRef<Timespec>, remaining: Option<UserRef<Timespec>>);
    231 => process::exit_group(status: i32);
    232 => events::epoll_wait(epfd: i32, events: UserAddr, max: i32, timeout_ms: i32);
    233 => events::epoll_ctl(epfd: i32, operation: i32, fd: i32, event: UserAddr);
    234 => process::tgkill(pid: i32, tid: i32, signal: i32);
    235 => path::utimes(path: UserAddr, times: UserRef<[i64; 4]>);
    247 => process::waitid(kind: u32, id: i32, info: UserAddr, options: u32, rusage: Option<UserRef<Rusage>>);
    251 => ioprio::ioprio_set(which: u32, who: i32, priority: i32);
    252 => ioprio::ioprio_get(which: u32, who: i32);
    253 => events::inotify_init();
    254 => events::inotify_add_watch(fd: i32, path: UserAddr, mask: u32);
    255 => events::inotify_rm_watch(fd: i32, wd: i32);
    257 => path::openat(dir: i32, path: UserAddr, flags: u32, mode: u32);
    258 => path::mkdirat(dir: i32, path: UserAddr, mode: u32);
    259 => path::mknodat(dir: i32, path: UserAddr, mode: u32, device: u64);
    260 => path::fchownat(dir: i32, path: UserAddr, uid: u32, gid: u32, flags: u32);
    261 => path::futimesat(dir: i32, path: UserAddr, times: UserRef<[i64; 4]>);
    262 => path::newfstatat(dir: i32, path: UserAddr, out: UserRef<path::Stat>, flags: u32);
    263 => path::unlinkat(dir: i32, path: UserAddr, flags: u32);
    264 => path::renameat(from_dir: i32, from: UserAddr, to_dir: i32, to: UserAddr);
    265 => path::linkat(from_dir: i32, from: UserAddr, to_dir: i32, to: UserAddr, flags: u32);
    266 => path::symlinkat(target: UserAddr, dir: i32, path: UserAddr);
    267 => path::readlinkat(dir: i32, path: UserAddr, buf: UserAddr, len: i32);
    268 => path::fchmodat(dir: i32, path: UserAddr, mode: u32);
    269 => path::faccessat(dir: i32, path: UserAddr, mode: u32);
    270 => poll::pselect6(count: i32, read: u64, write: u64, except: u64, timeout: UserRef<Timespec>, mask: UserRef<[u64; 2]>);
    271 => poll::ppoll(fds: UserAddr, count: u32, timeout: UserRef<Timespec>, mask: UserRef<u64>, size: usize);
    272 => process::unshare(flags: u64);
    273 => process::set_robust_list(head: UserAddr, len: usize);
    274 => process::get_robust_list(tid: i32, head: UserRef<u64>, len: UserRef<u64>);
    275 => splice::splice(input: i32, in_offset: UserRef<i64>, out: i32, out_offset: UserRef<i64>, len: usize, flags: u32);
    276 => splice::tee(input: i32, out: i32, len: usize, flags: u32);
    277 => file::sync_file_range(fd: i32, offset: i64, len: i64, flags: u32);
    278 => splice::vmsplice(fd: i32, iov: UserAddr, count: usize, flags: u32);
    280 => path::utimensat(dir: i32, path: UserAddr, times: UserRef<[i64; 4]>, flags: u32);
    281 => events::epoll_pwait(epfd: i32, events: UserAddr, max: i32, timeout_ms: i32, mask: UserRef<u64>);
    282 => signalfd::signalfd(fd: i32, mask: UserRef<u64>, size: usize);
    283 => events::timerfd_create(clock: i32, flags: u32);
    284 => events::eventfd1(initial: u32);
    285 => file::fallocate(fd: i32, mode: u32, offset: i64, len: i64);
    286 => events::timerfd_settime(fd: i32, flags: u32, new: UserRef<abi::Itimerspec>, old: UserRef<abi::Itimerspec>);
    287 => events::timerfd_gettime(fd: i32, out: UserRef<abi::Itimerspec>);
    288 => socket::accept4(fd: i32, address: UserAddr, len: UserRef<i32>, flags: u32);
    289 => signalfd::signalfd4(fd: i32, mask: UserRef<u64>, size: usize, flags: u32);
    290 => events::eventfd2(initial: u32, flags: u32);
    291 => events::epoll_create1(flags: u32);
    292 => descriptor::dup3(from: i32, to: i32, flags: u32);
    293 => descriptor::pipe2(fds: UserRef<[i32; 2]>, flags: u32);
    294 => events::inotify_init1(flags: u32);
    295 => file::preadv(fd: i32, iov: UserAddr, count: usize, offset: i64);
    296 => file::pwritev(fd: i32, iov: UserAddr, count: usize, offset: i64);
    297 => signal::rt_tgsigqueueinfo(pid: i32, tid: i32, signal: i32, info: UserRef<[u8; 128]>);
    299 => socket::recvmmsg(fd: i32, messages: UserRef<socket::MmsgHdr>, count: u32, flags: u32, timeout: Option<UserRef<Timespec>>);
    302 => resource::prlimit64(pid: i32, resource: u32, new: Option<UserRef<Rlimit>>, old: Option<UserRef<Rlimit>>);
    303 => events::name_to_handle_at(dir: i32, path: UserAddr, handle: u64, mount: u64, flags: u32);
    305 => time::clock_adjtime(clock: i32, timex: UserRef<time::Timex>);
    306 => file::syncfs(fd: i32);
    307 => socket::sendmmsg(fd: i32, messages: UserRef<socket::MmsgHdr>, count: u32, flags: u32);
    308 => process::setns(fd: Fd, kind: i32);
    309 => sched::getcpu(cpu: Option<UserRef<u32>>, node: Option<UserRef<u32>>);
    310 => pidfd::process_vm_readv(pid: i32, local: UserAddr, local_count: usize, remote: UserAddr, remote_count: usize, flags: u64);
    311 => pidfd::process_vm_writev(pid: i32, local: UserAddr, local_count: usize, remote: UserAddr, remote_count: usize, flags: u64);
    312 => process::kcmp(first: i32, second: i32, kind: u32, a: u64, b: u64);
    314 => sched::sched_setattr(pid: i32, attr: UserRef<sched::SchedAttr>, flags: u32);
    315 => sched::sched_getattr(pid: i32, attr: UserRef<sched::SchedAttr>, size: u32, flags: u32);
    316 => path::renameat2(from_dir: i32, from: UserAddr, to_dir: i32, to: UserAddr, flags: u32);
    317 => seccomp::seccomp(operation: u32, flags: u64, argument: u64);
    318 => system::getrandom(to: UserAddr, len: usize, flags: u32);
    319 => events::memfd_create(name: UserAddr, flags: u32);
    322 => exec::execveat(dir: i32, path: UserAddr, argv: u64, envp: u64, flags: u32);
    324 => sched::membarrier(command: u32, flags: u32, cpu: i32);
    325 => memory::mlock2(addr: u64, len: u64, flags: u32);
    326 => file::copy_file_range(input: i32, in_offset: UserRef<i64>, out: i32, out_offset: UserRef<i64>, len: usize, flags: u32);
    327 => file::preadv2(fd: i32, iov: UserAddr, count: usize, offset: i64, high: u64, flags: u32);
    328 => file::pwritev2(fd: i32, iov: UserAddr, count: usize, offset: i64, high: u64, flags: u32);
    332 => path::statx(dir: i32, path: UserAddr, flags: u32, mask: u32, out: UserAddr);
    424 => pidfd::pidfd_send_signal(fd: i32, signal: i32, info: Option<UserRef<[u8; 128]>>, flags: u32);
    434 => pidfd::pidfd_open(pid: i32, flags: u32);
    435 => process::clone3(args: UserAddr, size: usize);
    436 => descriptor::close_range(first: u32, last: u32, flags: u32);
    437 => path::openat2(dir: i32, path: UserAddr, how: UserRef<[u64; 3]>, size: usize);
    438 => pidfd::pidfd_getfd(fd: i32, target: i32, flags: u32);
    439 => path::faccessat2(dir: i32, path: UserAddr, mode: u32, flags: u32);
    441 => events::epoll_pwait2(epfd: i32, events: UserAddr, max: i32, timeout: UserRef<Timespec>, mask: UserRef<u64>);
    449 => futex::futex_waitv(words: UserRef<futex::FutexWaitv>, count: u32, flags: u32, timeout: Option<UserRef<Timespec>>, clock: i32);
    452 => path::fchmodat2(dir: i32, path: UserAddr, mode: u32, flags: u32);
}

absent! {
    134 => uselib ENOSYS;
    136 => ustat ENOSYS;
    139 => sysfs ENOSYS;
    154 => modify_ldt ENOSYS;
    156 => _sysctl ENOSYS;
    163 => acct ENOSYS;
    167 => swapon ENOSYS;
    168 => swapoff ENOSYS;
    172 => iopl EPERM;
    173 => ioperm EPERM;
    174 => create_module ENOSYS;
    175 => init_module ENOSYS;
    176 => delete_module ENOSYS;
    177 => get_kernel_syms ENOSYS;
    178 => query_module ENOSYS;
    179 => quotactl ENOSYS;
    180 => nfsservctl ENOSYS;
    181 => getpmsg ENOSYS;
    182 => putpmsg ENOSYS;
    183 => afs_syscall ENOSYS;
    184 => tuxcall ENOSYS;
    185 => security ENOSYS;
    205 => set_thread_area ENOSYS;
    206 => io_setup ENOSYS;
    207 => io_destroy ENOSYS;
    208 => io_getevents ENOSYS;
    209 => io_submit ENOSYS;
    210 => io_cancel ENOSYS;
    211 => get_thread_area ENOSYS;
    212 => lookup_dcookie ENOSYS;
    214 => epoll_ctl_old ENOSYS;
    215 => epoll_wait_old ENOSYS;
    216 => remap_file_pages ENOSYS;
    236 => vserver ENOSYS;
    237 => mbind ENOSYS;
    238 => set_mempolicy ENOSYS;
    239 => get_mempolicy ENOSYS;
    240 => mq_open ENOSYS;
    241 => mq_unlink ENOSYS;
    242 => mq_timedsend ENOSYS;
    243 => mq_timedreceive ENOSYS;
    244 => mq_notify ENOSYS;
    245 => mq_getsetattr ENOSYS;
    246 => kexec_load ENOSYS;
    248 => add_key ENOSYS;
    249 => request_key ENOSYS;
    250 => keyctl ENOSYS;
    256 => migrate_pages ENOSYS;
    279 => move_pages ENOSYS;
    298 => perf_event_open ENOSYS;
    300 => fanotify_init ENOSYS;
    301 => fanotify_mark ENOSYS;
    304 => open_by_handle_at ENOSYS;
    313 => finit_module ENOSYS;
    320 => kexec_file_load ENOSYS;
    321 => bpf ENOSYS;
    323 => userfaultfd ENOSYS;
    329 => pkey_mprotect ENOSYS;
    330 => pkey_alloc ENOSYS;
    331 => pkey_free ENOSYS;
    333 => io_pgetevents ENOSYS;
    334 => rseq ENOSYS;
    425 => io_uring_setup ENOSYS;
    426 => io_uring_enter ENOSYS;
    427 => io_uring_register ENOSYS;
    428 => open_tree ENOSYS;
    429 => move_mount ENOSYS;
    430 => fsopen ENOSYS;
    431 => fsconfig ENOSYS;
    432 => fsmount ENOSYS;
    433 => fspick ENOSYS;
    440 => process_madvise ENOSYS;
    442 => mount_setattr ENOSYS;
    443 => quotactl_fd ENOSYS;
    444 => landlock_create_ruleset ENOSYS;
    445 => landlock_add_rule ENOSYS;
    446 => landlock_restrict_self ENOSYS;
    447 => memfd_secret ENOSYS;
    448 => process_mrelease ENOSYS;
    450 => set_mempolicy_home_node ENOSYS;
}

/// Runs a system call.
pub fn call(current: &mut Current, number: u64, args: [u64; 6]) -> Outcome {
    if let Some(outcome) = dispatch(current, number, args) {
        return outcome;
    }
    let enosys = unimplemented::answer(current, number);
    Outcome::Error(absent(number).map_or(enosys, |(_, errno)| errno).into())
}

/// The name of a call, with a handler or without.
#[must_use]
pub fn name(number: u64) -> Option<&'static str> {
    handled_name(number).or_else(|| absent(number).map(|(name, _)| name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_headers() {
        use abi::raw::general as raw;
        for (name, number) in [
            ("exit_group", raw::__NR_exit_group),
            ("futex", raw::__NR_futex),
            ("rt_sigaction", raw::__NR_rt_sigaction),
            ("clone3", raw::__NR_clone3),
            ("prlimit64", raw::__NR_prlimit64),
            ("getrandom", raw::__NR_getrandom),
        ] {
            assert_eq!(super::name(u64::from(number)), Some(name));
        }
    }

    #[test]
    fn no_number_is_there_twice_and_they_ascend() {
        assert!(NUMBERS.windows(2).all(|pair| pair[0].0 < pair[1].0), "the table is sorted by number");
        for (number, name) in NUMBERS {
            assert!(absent(*number).is_none(), "{name} is absent and present");
        }
    }
}

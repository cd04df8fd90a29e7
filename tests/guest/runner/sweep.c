/* Makes very many of one kind of kernel object after another, each kind in a process of its own, until the kernel refuses or COUNT are there:
 *     sweep COUNT [KIND...]
 * Says "begin KIND", then "KIND made N, errno E" or "KIND died by signal S", and "alive" at the end. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

static char path[128];
static int spare = -1, watcher = -1, pair[2] = {-1, -1};

static int null_files(long i) { return open("/dev/null", O_RDONLY); }
static int duplicates(long i) { return dup(0); }
static int pipes(long i) {
    int fds[2];
    return pipe(fds);
}
static int full_pipes(long i) {
    static char page[65536];
    int fds[2];
    if (pipe2(fds, O_NONBLOCK) < 0) return -1;
    return write(fds[1], page, sizeof page) < 0 ? -1 : 0;
}
static int unix_pairs(long i) {
    int fds[2];
    return socketpair(AF_UNIX, SOCK_STREAM, 0, fds);
}
static int full_unix_sockets(long i) {
    static char bytes[4096];
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, fds) < 0) return -1;
    while (send(fds[0], bytes, sizeof bytes, 0) > 0) {
    }
    return 0;
}
static int udp_sockets(long i) { return socket(AF_INET, SOCK_DGRAM, 0); }
static int tcp_sockets(long i) { return socket(AF_INET, SOCK_STREAM, 0); }
static int netlink_sockets(long i) { return socket(AF_NETLINK, SOCK_RAW, 0); }
static int event_counters(long i) { return eventfd(0, 0); }
static int timer_files(long i) {
    struct itimerspec t = {.it_value.tv_sec = 1000};
    int fd = timerfd_create(CLOCK_MONOTONIC, 0);
    return fd < 0 ? fd : timerfd_settime(fd, 0, &t, NULL);
}
static int signal_files(long i) {
    sigset_t set;
    sigemptyset(&set);
    return signalfd(-1, &set, 0);
}
static int epolls(long i) { return epoll_create1(0); }
static int epoll_items(long i) {
    if (watcher < 0) watcher = epoll_create1(0);
    int fd = dup(watcher == 0 ? 1 : pair[0] < 0 ? (socketpair(AF_UNIX, SOCK_STREAM, 0, pair), pair[0]) : pair[0]);
    struct epoll_event e = {.events = EPOLLIN};
    return fd < 0 ? fd : epoll_ctl(watcher, EPOLL_CTL_ADD, fd, &e);
}
static int inotifies(long i) { return inotify_init1(0); }
static int made_file(long i) {
    snprintf(path, sizeof path, "/swept/%ld", i);
    return open(path, O_CREAT | O_WRONLY, 0600);
}
static int inotify_watches(long i) {
    if (watcher < 0) watcher = inotify_init1(0);
    int fd = made_file(i);
    if (fd < 0) return fd;
    close(fd);
    return inotify_add_watch(watcher, path, IN_MODIFY);
}
static int memory_files(long i) { return memfd_create("sweep", 0); }
static int empty_files(long i) {
    int fd = made_file(i);
    return fd < 0 ? fd : close(fd);
}
static int small_files(long i) {
    int fd = made_file(i);
    if (fd < 0) return fd;
    int result = write(fd, "x", 1);
    close(fd);
    return result;
}
static int directories(long i) {
    snprintf(path, sizeof path, "/swept/%ld", i);
    return mkdir(path, 0700);
}
static int links(long i) {
    snprintf(path, sizeof path, "/swept/%ld", i);
    return symlink("/a/rather/long/place/where/nothing/is/for/a/symbolic/link/to/point/at", path);
}
static int hard_links(long i) {
    if (i == 0) return empty_files(0);
    snprintf(path, sizeof path, "/swept/link-%ld", i);
    return link("/swept/0", path);
}
static int names_not_there(long i) {
    snprintf(path, sizeof path, "/swept/a-name-that-is-not-there-%ld", i);
    int fd = open(path, O_RDONLY);
    return fd < 0 && errno == ENOENT ? 0 : -1;
}
static int fifos(long i) {
    snprintf(path, sizeof path, "/swept/%ld", i);
    return mkfifo(path, 0600);
}
static int extended_attributes(long i) {
    static char value[1000];
    if (i % 50 == 0 && empty_files(i / 50) < 0) return -1;
    char name[32];
    snprintf(name, sizeof name, "trusted.n%ld", i % 50);
    return setxattr(path, name, value, sizeof value, 0);
}
static int record_locks(long i) {
    if (spare < 0) spare = made_file(0);
    struct flock l = {.l_type = F_WRLCK, .l_start = 2 * i, .l_len = 1};
    return fcntl(spare, F_SETLK, &l);
}
static int bound_names(long i) {
    struct sockaddr_un a = {AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "/swept/%ld", i);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    return fd < 0 ? fd : bind(fd, (void *)&a, sizeof a);
}
static int passed_files(long i) {
    if (pair[0] < 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) < 0) return -1;
    char control[CMSG_SPACE(sizeof(int))], byte = 0;
    struct iovec v = {&byte, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    *CMSG_FIRSTHDR(&m) = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(CMSG_FIRSTHDR(&m)), &pair[1], sizeof(int));
    if (sendmsg(pair[0], &m, 0) > 0) return 0;
    /* This one is full: the next. */
    return errno == EAGAIN ? socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) : -1;
}
static int posix_timers(long i) {
    struct sigevent e = {.sigev_notify = SIGEV_NONE};
    timer_t t;
    return syscall(SYS_timer_create, CLOCK_MONOTONIC, &e, &t);
}
static int queued_signals(long i) {
    sigset_t set;
    sigfillset(&set);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return sigqueue(getpid(), SIGRTMIN + 1, (union sigval){0});
}
static int mounts(long i) {
    snprintf(path, sizeof path, "/swept/%ld", i);
    return mkdir(path, 0700) < 0 ? -1 : mount("none", path, "tmpfs", 0, "");
}
static int binds(long i) {
    if (i == 0) mkdir("/swept/b", 0700);
    return mount("/proc", "/swept/b", NULL, MS_BIND, NULL);
}
static int semaphores(long i) { return semget(IPC_PRIVATE, 100, 0600); }
static int semaphore_undos(long i) {
    int id = semget(IPC_PRIVATE, 1, 0600);
    struct sembuf b = {0, 1, SEM_UNDO};
    return id < 0 ? id : semop(id, &b, 1);
}
static int shared_segments(long i) { return shmget(IPC_PRIVATE, 4096, 0600); }
static int messages(long i) {
    static struct {
        long type;
        char text[2000];
    } m = {1};
    if (i % 8 == 0) spare = msgget(IPC_PRIVATE, 0600);
    return spare < 0 ? -1 : msgsnd(spare, &m, sizeof m.text, IPC_NOWAIT);
}
static int mappings(long i) {
    return mmap(NULL, 4096, i & 1 ? PROT_READ : PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -1 : 0;
}
static int pages(long i) {
    char *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return -1;
    *at = 1;
    return 0;
}
static int page_tables(long i) {
    char *at = mmap((void *)(0x100000000000 + (i << 21)), 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (at == MAP_FAILED) return -1;
    *at = 1;
    return 0;
}
static int ptys(long i) { return open("/dev/ptmx", O_RDWR | O_NOCTTY); }
static int sessions(long i) {
    pid_t p = fork();
    if (p == 0) {
        setsid();
        pause();
    }
    return p;
}
static int processes(long i) {
    pid_t p = fork();
    if (p == 0)
        for (;;) pause();
    return p;
}
static int bomb(long i) {
    /* Every process forks. */
    return fork();
}
static void *wait_for_ever(void *unused) {
    for (;;) pause();
    return unused;
}
static int threads(long i) {
    pthread_t t;
    pthread_attr_t a;
    pthread_attr_init(&a);
    pthread_attr_setstacksize(&a, 16384);
    errno = pthread_create(&t, &a, wait_for_ever, NULL);
    return errno ? -1 : 0;
}
static int user_namespaces(long i) { return unshare(CLONE_NEWUTS); }
static int control_groups(long i) {
    if (i == 0) {
        mkdir("/swept/c", 0700);
        if (mount("none", "/swept/c", "cgroup2", 0, "") < 0) return -1;
    }
    snprintf(path, sizeof path, "/swept/c/%ld", i);
    return mkdir(path, 0700);
}
static int epoll_chains(long i) {
    int fd = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN};
    if (fd >= 0 && spare >= 0) epoll_ctl(fd, EPOLL_CTL_ADD, i % 4 ? spare : 0, &e);
    return spare = fd;
}

#define KIND(name) {#name, name}
static const struct {
    const char *name;
    int (*make)(long);
} kinds[] = {
    KIND(null_files), KIND(duplicates), KIND(pipes), KIND(full_pipes), KIND(unix_pairs), KIND(full_unix_sockets), KIND(udp_sockets), KIND(tcp_sockets),
    KIND(netlink_sockets), KIND(event_counters), KIND(timer_files), KIND(signal_files), KIND(epolls), KIND(epoll_items), KIND(epoll_chains),
    KIND(inotifies), KIND(inotify_watches), KIND(memory_files), KIND(empty_files), KIND(small_files), KIND(directories), KIND(links), KIND(hard_links),
    KIND(names_not_there), KIND(fifos), KIND(extended_attributes), KIND(record_locks), KIND(bound_names), KIND(passed_files), KIND(posix_timers),
    KIND(queued_signals), KIND(mounts), KIND(binds), KIND(semaphores), KIND(semaphore_undos), KIND(shared_segments), KIND(messages), KIND(mappings),
    KIND(pages), KIND(page_tables), KIND(ptys), KIND(user_namespaces), KIND(control_groups), KIND(threads), KIND(sessions), KIND(processes), KIND(bomb),
};

static void one(const char *name, int (*make)(long), long count) {
    mkdir("/swept", 0700);
    mount("none", "/swept", "tmpfs", 0, "");
    struct rlimit most = {1 << 20, 1 << 20};
    setrlimit(RLIMIT_NOFILE, &most);
    setsid();
    long made = 0;
    errno = 0;
    while (made < count && make(made) >= 0) made++;
    if (make == bomb) kill(0, SIGKILL);
    char line[128];
    int n = snprintf(line, sizeof line, "%s made %ld, errno %d\n", name, made, made < count ? errno : 0);
    if (write(1, line, n) < 0) _exit(1);
    usleep(100000);
    if (make == processes || make == sessions) signal(SIGTERM, SIG_IGN);
    _exit(0);
}

int main(int argc, char **argv) {
    long count = argc > 1 ? atol(argv[1]) : 1000;
    setvbuf(stdout, NULL, _IONBF, 0);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        int wanted = argc <= 2;
        for (int k = 2; k < argc; k++) wanted |= !strcmp(argv[k], kinds[i].name);
        if (!wanted) continue;
        printf("begin %s\n", kinds[i].name);
        pid_t child = fork();
        if (child == 0) {
            /* A process ID namespace of the poor: what a kind leaves running is killed with its session. */
            one(kinds[i].name, kinds[i].make, count);
        }
        int status = 0;
        while (waitpid(child, &status, 0) != child && errno == EINTR) {
        }
        if (WIFSIGNALED(status)) printf("%s died by signal %d\n", kinds[i].name, WTERMSIG(status));
        /* All that is left but us. */
        kill(-1, SIGKILL);
        while (waitpid(-1, &status, 0) > 0) {
        }
        while (umount2("/swept", MNT_DETACH) == 0) {
        }
    }
    printf("alive\n");
    return 0;
}

#define _GNU_SOURCE
#include "t.h"
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/vfs.h>

static char text[8192], path[256];

/* The hierarchy, mounted where only this case sees it. */
static void begin(void) {
    if (unshare(CLONE_NEWNS) < 0) t_skip("no mount namespace of one's own (errno %d)", errno);
    CHECK(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
    mkdir("cg", 0755);
    if (mount("cgroup2", "cg", "cgroup2", 0, NULL) < 0) t_skip("no cgroup2 (errno %d)", errno);
}
static const char *in(const char *group, const char *file) {
    snprintf(path, sizeof path, "cg/%s/%s", group, file);
    return path;
}
static long slurp(const char *name) {
    int fd = open(name, O_RDONLY);
    if (fd < 0) return -1;
    long n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    return n;
}
static int put(const char *name, const char *what) {
    int fd = open(name, O_WRONLY);
    if (fd < 0) return -1;
    int n = write(fd, what, strlen(what)), saved = errno;
    close(fd);
    errno = saved;
    return n == (int)strlen(what) ? 0 : -1;
}
static void group(const char *name) {
    snprintf(path, sizeof path, "cg/%s", name);
    CHECK(mkdir(path, 0755) == 0);
}
static void ungroup(const char *name) {
    snprintf(path, sizeof path, "cg/%s", name);
    CHECK(rmdir(path) == 0);
}
static void name_of(char *name, const char *tag) { sprintf(name, "t-%s-%d", tag, getpid()); }

static void a_process_moves_and_its_group_is_told(void) {
    begin();
    struct statfs fs;
    CHECK(statfs("cg", &fs) == 0);
    EQUAL(fs.f_type, 0x63677270);
    char name[64], number[32], line[128];
    name_of(name, "move");
    group(name);
    CHECK(slurp(in(name, "cgroup.procs")) == 0 && slurp(in(name, "cgroup.events")) > 0);
    CHECK(strstr(text, "populated 0\n") && strstr(text, "frozen 0\n"));
    CHECK(slurp(in(name, "cgroup.type")) > 0 && !strcmp(text, "domain\n"));
    int notify = inotify_init1(IN_NONBLOCK), events = open(in(name, "cgroup.events"), O_RDONLY);
    CHECK(inotify_add_watch(notify, in(name, "cgroup.events"), IN_MODIFY) > 0);
    CHECK(read(events, text, sizeof text) > 0);
    int hold[2];
    CHECK(pipe(hold) == 0);
    pid_t child = fork();
    if (child == 0) {
        char c;
        close(hold[1]);
        _exit(read(hold[0], &c, 1) != 0);
    }
    close(hold[0]);
    sprintf(number, "%d", child);
    CHECK(put(in(name, "cgroup.procs"), number) == 0);
    CHECK(slurp(in(name, "cgroup.procs")) > 0 && atoi(text) == child);
    CHECK(slurp(in(name, "cgroup.events")) > 0 && strstr(text, "populated 1\n"));
    struct pollfd wait = {notify, POLLIN, 0};
    EQUAL(poll(&wait, 1, 5000), 1);
    struct pollfd changed = {events, POLLPRI, 0};
    EQUAL(poll(&changed, 1, 5000), 1);
    CHECK(changed.revents & POLLPRI);
    sprintf(line, "/proc/%d/cgroup", child);
    CHECK(slurp(line) > 0);
    sprintf(line, "0::");
    char *at = strstr(text, "0::/");
    CHECK(at && strstr(at, name));
    snprintf(path, sizeof path, "cg/%s", name);
    FAILS(rmdir(path), EBUSY);
    CHECK(read(notify, text, sizeof text) > 0);
    close(hold[1]);
    t_exits(child, 0);
    EQUAL(poll(&wait, 1, 5000), 1);
    CHECK(slurp(in(name, "cgroup.events")) > 0 && strstr(text, "populated 0\n"));
    ungroup(name);
    FAILS(open(in(name, "cgroup.procs"), O_RDONLY), ENOENT);
}

static void wrong_moves_fail(void) {
    begin();
    char name[64];
    name_of(name, "wrong");
    group(name);
    FAILS(put(in(name, "cgroup.procs"), "99999999"), ESRCH);
    FAILS(put(in(name, "cgroup.procs"), "word"), EINVAL);
    FAILS(put(in(name, "cgroup.subtree_control"), "+nothing"), EINVAL);
    FAILS(put(in(name, "cgroup.freeze"), "2"), ERANGE);
    snprintf(path, sizeof path, "cg/%s/file", name);
    FAILS(open(path, O_CREAT | O_WRONLY, 0600), EACCES);
    FAILS(unlink(in(name, "cgroup.procs")), EPERM);
    FAILS(mount("cgroup2", "cg", "cgroup2", 0, "nonsense"), EINVAL);
    ungroup(name);
}

static void a_frozen_group_stands_still(void) {
    begin();
    char name[64], number[32];
    name_of(name, "freeze");
    group(name);
    volatile long *counter = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t child = fork();
    if (child == 0)
        for (;;) ++*counter;
    sprintf(number, "%d", child);
    CHECK(put(in(name, "cgroup.procs"), number) == 0);
    CHECK(put(in(name, "cgroup.freeze"), "1") == 0);
    for (int i = 0; i < 1000; i++) {
        CHECK(slurp(in(name, "cgroup.events")) > 0);
        if (strstr(text, "frozen 1\n")) break;
        t_sleep_ms(5);
    }
    CHECK(strstr(text, "frozen 1\n"));
    long before = *counter;
    t_sleep_ms(50);
    EQUAL(*counter, before);
    CHECK(put(in(name, "cgroup.freeze"), "0") == 0);
    for (int i = 0; i < 1000 && *counter == before; i++) t_sleep_ms(5);
    CHECK(*counter != before);
    CHECK(put(in(name, "cgroup.freeze"), "1") == 0);
    /* Death comes even to the frozen. */
    CHECK(put(in(name, "cgroup.kill"), "1") == 0);
    t_dies(child, SIGKILL);
    ungroup(name);
}

static void pids_are_limited(void) {
    begin();
    char name[64], inner[96], number[32];
    if (slurp("cg/cgroup.controllers") < 0 || !strstr(text, "pids")) t_skip("no controller of pids");
    name_of(name, "pids");
    group(name);
    CHECK(put("cg/cgroup.subtree_control", "+pids") == 0);
    CHECK(put(in(name, "cgroup.subtree_control"), "+pids") == 0);
    sprintf(inner, "%s/inner", name);
    group(inner);
    sprintf(number, "%d", getpid());
    FAILS(put(in(name, "cgroup.procs"), number), EBUSY);
    CHECK(put(in(inner, "pids.max"), "2") == 0);
    CHECK(put(in(inner, "cgroup.procs"), number) == 0);
    CHECK(slurp(in(inner, "pids.current")) > 0 && atoi(text) == 1);
    pid_t child = fork();
    if (child == 0) {
        errno = 0;
        _exit(fork() == -1 && errno == EAGAIN ? 7 : 1);
    }
    t_exits(child, 7);
    CHECK(slurp(in(inner, "pids.events")) > 0 && strstr(text, "max 1"));
    CHECK(put("cg/cgroup.procs", number) == 0);
    ungroup(inner);
    CHECK(put(in(name, "cgroup.subtree_control"), "-pids") == 0);
    ungroup(name);
}

static void a_child_can_be_born_in_a_group(void) {
    begin();
    char name[64];
    name_of(name, "born");
    group(name);
    snprintf(path, sizeof path, "cg/%s", name);
    int fd = open(path, O_RDONLY | O_DIRECTORY);
    struct clone_args args = {.flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = fd};
    pid_t child = syscall(SYS_clone3, &args, sizeof args);
    if (child == 0) _exit(slurp("/proc/self/cgroup") > 0 && strstr(text, name) ? 3 : 1);
    CHECK(child > 0);
    t_exits(child, 3);
    int other = open("/dev/null", O_RDONLY);
    args.cgroup = other;
    FAILS(syscall(SYS_clone3, &args, sizeof args), EBADF);
    ungroup(name);
}

MAIN(CASE(a_process_moves_and_its_group_is_told), CASE(wrong_moves_fail), CASE(a_frozen_group_stands_still), CASE(pids_are_limited),
     CASE(a_child_can_be_born_in_a_group))

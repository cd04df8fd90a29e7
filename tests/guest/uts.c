// What the machine is called, by namespace, uts_namespaces(7); and what disks are told of priorities, ioprio_set(2).
#define _GNU_SOURCE
#include "t.h"
#include <sched.h>
#include <sys/utsname.h>

static void names_belong_to_a_namespace(void) {
    struct utsname before, after;
    char link[2][64] = {{0}};
    CHECK(uname(&before) == 0);
    CHECK(readlink("/proc/self/ns/uts", link[0], 63) > 0 && !strncmp(link[0], "uts:[", 5));
    pid_t child = fork();
    if (child == 0) {
        if (unshare(CLONE_NEWUTS) < 0 && errno == EPERM) t_skip("not allowed to have a namespace");
        struct utsname inside;
        CHECK(uname(&inside) == 0 && !strcmp(inside.nodename, before.nodename));
        CHECK(sethostname("inside", 6) == 0 && uname(&inside) == 0 && !strcmp(inside.nodename, "inside"));
        CHECK(readlink("/proc/self/ns/uts", link[1], 63) > 0 && strcmp(link[0], link[1]));
        char name[32] = {0};
        int fd = open("/proc/sys/kernel/hostname", O_RDONLY);
        CHECK(read(fd, name, 31) == 7 && !strcmp(name, "inside\n"));
        pid_t grandchild = fork();
        if (grandchild == 0) _exit(uname(&inside) == 0 && !strcmp(inside.nodename, "inside") ? 0 : 1);
        t_exits(grandchild, 0);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    if (WEXITSTATUS(status) == T_SKIPPED) t_skip("not allowed to have a namespace");
    EQUAL(WEXITSTATUS(status), 0);
    CHECK(uname(&after) == 0 && !strcmp(before.nodename, after.nodename));
}

enum { PROCESS = 1, GROUP, USER };
enum { BEST_EFFORT = 2 << 13, IDLE = 3 << 13 };

static void io_priorities_are_kept_and_inherited(void) {
    EQUAL(syscall(SYS_ioprio_get, PROCESS, 0), 0);
    CHECK(syscall(SYS_ioprio_set, PROCESS, 0, BEST_EFFORT | 3) == 0);
    EQUAL(syscall(SYS_ioprio_get, PROCESS, 0), BEST_EFFORT | 3);
    pid_t child = fork();
    if (child == 0) _exit(syscall(SYS_ioprio_get, PROCESS, 0) == (BEST_EFFORT | 3) ? 0 : 1);
    t_exits(child, 0);
    CHECK(syscall(SYS_ioprio_set, PROCESS, 0, IDLE) == 0);
    EQUAL(syscall(SYS_ioprio_get, PROCESS, getpid()), IDLE);
    FAILS(syscall(SYS_ioprio_set, PROCESS, 0, 4 << 13), EINVAL);
    FAILS(syscall(SYS_ioprio_set, PROCESS, 0, 5), EINVAL);
    FAILS(syscall(SYS_ioprio_set, 4, 0, 0), EINVAL);
    FAILS(syscall(SYS_ioprio_set, 0, 0, 0), EINVAL);
    FAILS(syscall(SYS_ioprio_get, PROCESS, 999999), ESRCH);
}

MAIN(CASE(names_belong_to_a_namespace), CASE(io_priorities_are_kept_and_inherited))

#include "t.h"
#include <grp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/utsname.h>

static void groups_and_sessions(void) {
    pid_t child = fork();
    if (child == 0) {
        CHECK(setpgid(0, 0) == 0);
        EQUAL(getpgrp(), getpid());
        FAILS(setsid(), EPERM);
        pid_t other = fork();
        if (other == 0) {
            EQUAL(getpgrp(), getppid());
            EQUAL(setsid(), getpid());
            EQUAL(getsid(0), getpid());
            EQUAL(getpgrp(), getpid());
            FAILS(setpgid(0, 0), EPERM);
            _exit(0);
        }
        t_exits(other, 0);
        FAILS(setpgid(0, 0x3fffff), EPERM);
        FAILS(setpgid(0x3fffff, 0), ESRCH);
        FAILS(setpgid(0, -1), EINVAL);
        _exit(0);
    }
    t_exits(child, 0);
}

static void a_group_can_be_signalled(void) {
    pid_t leader = fork();
    if (leader == 0) {
        setpgid(0, 0);
        pid_t members[3];
        for (int i = 0; i < 3; i++)
            if ((members[i] = fork()) == 0)
                for (;;) pause();
        signal(SIGTERM, SIG_IGN);
        CHECK(kill(0, SIGTERM) == 0);
        for (int i = 0; i < 3; i++) t_dies(members[i], SIGTERM);
        _exit(0);
    }
    t_exits(leader, 0);
    FAILS(kill(-leader, SIGTERM), ESRCH);
}

static void a_dead_parent_sends_its_signal(void) {
    int ends[2];
    CHECK(pipe(ends) == 0);
    pid_t child = fork();
    if (child == 0) {
        if (fork() == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            CHECK(write(ends[1], "x", 1) == 1);
            for (;;) pause();
        }
        char c;
        CHECK(read(ends[0], &c, 1) == 1);
        _exit(0);
    }
    close(ends[1]);
    t_exits(child, 0);
    char c;
    EQUAL(read(ends[0], &c, 1), 0);
}

static void root_gives_itself_away(void) {
    if (geteuid() != 0) t_skip("needs root");
    pid_t child = fork();
    if (child == 0) {
        gid_t groups[3] = {5, 6, 7}, found[8];
        CHECK(setgroups(3, groups) == 0);
        EQUAL(getgroups(8, found), 3);
        EQUAL(found[2], 7);
        FAILS(getgroups(1, found), EINVAL);
        CHECK(setresgid(100, 101, 102) == 0 && setresuid(1000, 1001, 1002) == 0);
        uid_t r, e, s;
        CHECK(getresuid(&r, &e, &s) == 0 && r == 1000 && e == 1001 && s == 1002);
        CHECK(seteuid(1002) == 0 && geteuid() == 1002);
        FAILS(setuid(0), EPERM);
        FAILS(setgroups(3, groups), EPERM);
        FAILS(setresuid(5, -1, -1), EPERM);
        FAILS(kill(1, SIGTERM), EPERM);
        FAILS(setpriority(PRIO_PROCESS, 0, -5), EACCES);
        struct rlimit limit = {100, 100};
        CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
        limit.rlim_max = 200;
        FAILS(setrlimit(RLIMIT_NOFILE, &limit), EPERM);
        _exit(0);
    }
    t_exits(child, 0);
}

static void limits_bind(void) {
    struct rlimit limit = {30, 30};
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    int last = -1, fd;
    while ((fd = open("/dev/null", O_RDONLY)) >= 0) last = fd;
    EQUAL(errno, EMFILE);
    EQUAL(last, 29);
    for (int i = 3; i < 30; i++) close(i);
    limit = (struct rlimit){0, 0};
    CHECK(setrlimit(RLIMIT_CORE, &limit) == 0);
    limit = (struct rlimit){5, 4};
    FAILS(setrlimit(RLIMIT_CPU, &limit), EINVAL);
    limit = (struct rlimit){64 << 20, RLIM_INFINITY};
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
    FAILS((intptr_t)mmap(NULL, 128 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), ENOMEM);
    CHECK(prlimit(0, RLIMIT_AS, NULL, &limit) == 0);
    EQUAL(limit.rlim_cur, 64 << 20);
}

static void files_grow_no_larger_than_the_limit(void) {
    struct rlimit limit = {1000, 1000};
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    signal(SIGXFSZ, SIG_IGN);
    int fd = open("limited", O_CREAT | O_RDWR | O_TRUNC, 0600);
    char block[900] = "";
    EQUAL(write(fd, block, 900), 900);
    EQUAL(write(fd, block, 900), 100);
    FAILS(write(fd, block, 900), EFBIG);
    signal(SIGXFSZ, SIG_DFL);
    pid_t child = fork();
    if (child == 0) _exit(write(fd, block, 900) > 0);
    t_dies(child, SIGXFSZ);
}

static void names_of_the_system(void) {
    struct utsname name;
    CHECK(uname(&name) == 0);
    CHECK(!strcmp(name.sysname, "Linux") && !strcmp(name.machine, "x86_64"));
    int major, minor;
    CHECK(sscanf(name.release, "%d.%d", &major, &minor) == 2 && major >= 5);
    if (geteuid() == 0) {
        pid_t child = fork();
        if (child == 0) {
            if (syscall(SYS_unshare, 0x04000000 /* CLONE_NEWUTS */) != 0) _exit(0);
            CHECK(sethostname("elsewhere", 9) == 0 && uname(&name) == 0 && !strcmp(name.nodename, "elsewhere"));
            _exit(0);
        }
        t_exits(child, 0);
    }
}

static void processes_have_names(void) {
    char name[16];
    CHECK(prctl(PR_SET_NAME, "a name that is too long") == 0 && prctl(PR_GET_NAME, name) == 0);
    CHECK(!strcmp(name, "a name that is "));
}

static void random_bytes_differ(void) {
    unsigned char one[64], two[64];
    EQUAL(syscall(SYS_getrandom, one, 64, 0), 64);
    EQUAL(syscall(SYS_getrandom, two, 64, 1), 64);
    CHECK(memcmp(one, two, 64));
    FAILS(syscall(SYS_getrandom, one, 64, 0x100), EINVAL);
    FAILS(syscall(SYS_getrandom, 8, 64, 0), EFAULT);
}

static void unknown_calls_are_enosys(void) {
    FAILS(syscall(5000), ENOSYS);
    FAILS(syscall(-1), ENOSYS);
    FAILS(syscall(0x7fffffff), ENOSYS);
    FAILS(syscall(SYS_tuxcall), ENOSYS);
}

static void nice_values_are_kept(void) {
    errno = 0;
    EQUAL(getpriority(PRIO_PROCESS, 0), 0);
    CHECK(setpriority(PRIO_PROCESS, 0, 7) == 0);
    EQUAL(getpriority(PRIO_PROCESS, 0), 7);
    CHECK(setpriority(PRIO_PROCESS, 0, 100) == 0);
    EQUAL(getpriority(PRIO_PROCESS, 0), 19);
}

MAIN(CASE(groups_and_sessions), CASE(a_group_can_be_signalled), CASE(a_dead_parent_sends_its_signal), CASE(root_gives_itself_away),
     CASE(limits_bind), CASE(files_grow_no_larger_than_the_limit), CASE(names_of_the_system), CASE(processes_have_names), CASE(random_bytes_differ), CASE(unknown_calls_are_enosys),
     CASE(nice_values_are_kept))

/* Filters that a program puts on itself. */
#define _GNU_SOURCE
#include "t.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <ucontext.h>

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define IS(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, yes, no)
#define GIVE(value) BPF_STMT(BPF_RET | BPF_K, value)

/* Answers one call with one action. */
static int forbid(int number, unsigned action, unsigned flags) {
    struct sock_filter code[] = {LOAD(nr), IS(number, 0, 1), GIVE(action), GIVE(SECCOMP_RET_ALLOW)};
    struct sock_fprog program = {4, code};
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}
static void agree(void) { CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0); }

static void calls_are_answered_by_filters(void) {
    EQUAL(prctl(PR_GET_SECCOMP), 0);
    agree();
    CHECK(forbid(SYS_getppid, SECCOMP_RET_ERRNO | 77, 0) == 0);
    EQUAL(prctl(PR_GET_SECCOMP), 2);
    FAILS(syscall(SYS_getppid), 77);
    CHECK(getpid() > 0);
    /* The strictest counts, whichever came first; the newest of the same kind. */
    CHECK(forbid(SYS_getppid, SECCOMP_RET_ALLOW, 0) == 0);
    FAILS(syscall(SYS_getppid), 77);
    CHECK(forbid(SYS_getppid, SECCOMP_RET_ERRNO | 78, 0) == 0);
    FAILS(syscall(SYS_getppid), 78);
    /* By arguments, all 64 bits of them. */
    struct sock_filter code[] = {LOAD(nr), IS(SYS_close, 0, 5), LOAD(args[0]), IS(0x1234, 0, 3), LOAD(args[0]), BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, 12),
                                 GIVE(SECCOMP_RET_ERRNO | 79), GIVE(SECCOMP_RET_ALLOW)};
    struct sock_fprog program = {8, code};
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
    FAILS(close(0x1234), 79);
    FAILS(close(0x1235), EBADF);
    pid_t child = fork();
    if (child == 0) {
        FAILS(syscall(SYS_getppid), 78);
        execl("/proc/self/exe", "seccomp", "inherited", NULL);
        _exit(1);
    }
    t_exits(child, 78);
}

static volatile int trapped_call, trapped_data;
static void on_sys(int number, siginfo_t *info, void *context) {
    (void)number;
    trapped_call = info->si_syscall;
    trapped_data = info->si_errno;
    CHECK(info->si_code == 1 && info->si_arch == AUDIT_ARCH_X86_64 && info->si_call_addr);
    ucontext_t *u = context;
    CHECK(u->uc_mcontext.gregs[REG_RAX] == info->si_syscall);
    u->uc_mcontext.gregs[REG_RAX] = 4711;
}

static void a_call_can_be_trapped_and_emulated(void) {
    agree();
    struct sigaction action = {.sa_sigaction = on_sys, .sa_flags = SA_SIGINFO};
    sigaction(SIGSYS, &action, NULL);
    CHECK(forbid(SYS_getppid, SECCOMP_RET_TRAP | 5, 0) == 0);
    EQUAL(syscall(SYS_getppid), 4711);
    EQUAL(trapped_call, SYS_getppid);
    EQUAL(trapped_data, 5);
}

static void *call_it(void *arg) {
    (void)arg;
    syscall(SYS_getppid);
    return NULL;
}

static void a_call_can_kill(void) {
    pid_t child = fork();
    if (child == 0) {
        agree();
        forbid(SYS_getppid, SECCOMP_RET_KILL_PROCESS, 0);
        signal(SIGSYS, SIG_IGN);
        syscall(SYS_getppid);
        _exit(0);
    }
    t_dies(child, SIGSYS);
    child = fork();
    if (child == 0) {
        agree();
        forbid(SYS_getppid, SECCOMP_RET_KILL_THREAD, 0);
        pthread_t thread;
        pthread_create(&thread, NULL, call_it, NULL);
        pthread_join(thread, NULL);
        _exit(9);
    }
    t_exits(child, 9);
    child = fork();
    if (child == 0) {
        CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) == 0);
        if (write(1, "", 0) == 0) syscall(SYS_getpid);
        syscall(SYS_exit, 0);
    }
    t_dies(child, SIGKILL);
}

static void wrong_filters_are_refused(void) {
    struct sock_filter good[] = {GIVE(SECCOMP_RET_ALLOW)};
    struct sock_fprog program = {1, good};
    if (getuid() != 0) FAILS(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), EACCES);
    agree();
    program.len = 0;
    FAILS(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), EINVAL);
    struct sock_filter odd[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 2), GIVE(0)}, bytes[] = {BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0), GIVE(0)};
    struct sock_filter beyond[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 64), GIVE(0)}, open_end[] = {LOAD(nr)};
    struct sock_filter *all[] = {odd, bytes, beyond, open_end};
    for (int i = 0; i < 4; i++) {
        program = (struct sock_fprog){i == 3 ? 1 : 2, all[i]};
        FAILS(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), EINVAL);
    }
    program = (struct sock_fprog){1, NULL};
    FAILS(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), EINVAL);
    program = (struct sock_fprog){1, (void *)8};
    FAILS(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), EFAULT);
    FAILS(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0x8000, &program), EINVAL);
    FAILS(syscall(SYS_seccomp, 99, 0, NULL), EINVAL);
    unsigned action = SECCOMP_RET_ERRNO, none = 0x1230000;
    EQUAL(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action), 0);
    FAILS(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &none), EOPNOTSUPP);
}

static int go[2];
static void *wait_and_call(void *arg) {
    char c;
    (void)arg;
    if (read(go[0], &c, 1) != 1) return NULL;
    errno = 0;
    return (void *)(long)(syscall(SYS_getppid) == -1 ? errno : 0);
}

static void all_threads_can_be_filtered_at_once(void) {
    agree();
    CHECK(pipe(go) == 0);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, wait_and_call, NULL) == 0);
    CHECK(forbid(SYS_getppid, SECCOMP_RET_ERRNO | 80, SECCOMP_FILTER_FLAG_TSYNC) == 0);
    CHECK(write(go[1], "x", 1) == 1);
    void *found;
    CHECK(pthread_join(thread, &found) == 0);
    EQUAL((long)found, 80);
}

static const struct t_case cases[] = {CASE(calls_are_answered_by_filters), CASE(a_call_can_be_trapped_and_emulated), CASE(a_call_can_kill),
                                      CASE(wrong_filters_are_refused), CASE(all_threads_can_be_filtered_at_once)};

int main(int argc, char **argv) {
    (void)argv;
    if (argc > 1) {
        errno = 0;
        _exit(syscall(SYS_getppid) == -1 ? errno : 0);
    }
    return t_main(cases, sizeof cases / sizeof cases[0]);
}

/* Who a thread is, asked again and again: what changed shows at once, though the answer was given before. */
#include "t.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/prctl.h>

/* Asked more than once, so that whoever remembers answers does. */
static long asked(long number) {
    long first = syscall(number);
    for (int i = 0; i < 3; i++) EQUAL(syscall(number), first);
    return first;
}

static void numbers_change_at_once(void) {
    if (geteuid() != 0) t_skip("only root changes its numbers");
    EQUAL(asked(SYS_getuid), 0);
    EQUAL(asked(SYS_geteuid), 0);
    EQUAL(asked(SYS_getgid), getgid());
    CHECK(setresgid(5, 6, 7) == 0);
    EQUAL(asked(SYS_getgid), 5);
    EQUAL(asked(SYS_getegid), 6);
    CHECK(setresuid(0, 1000, 0) == 0);
    EQUAL(asked(SYS_getuid), 0);
    EQUAL(asked(SYS_geteuid), 1000);
    CHECK(setresuid(1000, 1000, 1000) == 0);
    EQUAL(asked(SYS_getuid), 1000);
}

static void children_are_others(void) {
    pid_t me = asked(SYS_getpid), thread = asked(SYS_gettid);
    EQUAL(me, thread);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(asked(SYS_getpid) != me);
        EQUAL(asked(SYS_getppid), me);
        _exit(0);
    }
    int status;
    EQUAL(waitpid(child, &status, 0), child);
    EQUAL(status, 0);
    child = vfork();
    if (child == 0) _exit(syscall(SYS_getpid) == me || syscall(SYS_getppid) != me);
    EQUAL(waitpid(child, &status, 0), child);
    EQUAL(status, 0);
    EQUAL(asked(SYS_getpid), me);
}

static void *tell_thread(void *out) {
    *(long *)out = asked(SYS_gettid);
    EQUAL(asked(SYS_getpid), getpid());
    return NULL;
}

static void threads_have_numbers_of_their_own(void) {
    long before = asked(SYS_gettid), last = 0;
    for (int i = 0; i < 20; i++) {
        pthread_t thread;
        long number = 0;
        CHECK(pthread_create(&thread, NULL, tell_thread, &number) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
        CHECK(number != before && number != last);
        last = number;
    }
    EQUAL(asked(SYS_gettid), before);
}

static void orphans_see_their_new_parent(void) {
    int told[2];
    CHECK(pipe(told) == 0);
    pid_t parent = fork();
    CHECK(parent >= 0);
    if (parent == 0) {
        pid_t me = getpid();
        if (fork() == 0) {
            EQUAL(asked(SYS_getppid), me);
            char done = 'a';
            CHECK(write(told[1], &done, 1) == 1);
            while (syscall(SYS_getppid) == me) t_sleep_ms(1);
            done = syscall(SYS_getppid) != me ? 'b' : 'x';
            CHECK(write(told[1], &done, 1) == 1);
            _exit(0);
        }
        pause();
    }
    char what;
    CHECK(read(told[0], &what, 1) == 1 && what == 'a');
    CHECK(kill(parent, SIGKILL) == 0);
    EQUAL(waitpid(parent, NULL, 0), parent);
    CHECK(read(told[0], &what, 1) == 1);
    EQUAL(what, 'b');
}

static void a_filter_sees_what_was_answered_before(void) {
    asked(SYS_getppid);
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 77),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof code / sizeof *code, .filter = code};
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
    for (int i = 0; i < 3; i++) FAILS(syscall(SYS_getppid), 77);
    EQUAL(asked(SYS_getpid), getpid());
}

/* A call leaves all registers but rax, rcx and r11 alone, and these as syscall(2) says. */
static void registers_survive(void) {
    for (int i = 0; i < 4; i++) {
        register unsigned long r8 __asm__("r8") = 0x1111, r9 __asm__("r9") = 0x2222, r10 __asm__("r10") = 0x3333;
        unsigned long rax = SYS_getpid, rdi = 1, rsi = 2, rdx = 3, rcx = 0;
        __asm__ volatile("syscall" : "+a"(rax), "+D"(rdi), "+S"(rsi), "+d"(rdx), "=c"(rcx), "+r"(r8), "+r"(r9), "+r"(r10) : : "r11", "memory");
        EQUAL(rax, getpid());
        CHECK(rdi == 1 && rsi == 2 && rdx == 3 && r8 == 0x1111 && r9 == 0x2222 && r10 == 0x3333);
    }
}

MAIN(CASE(numbers_change_at_once), CASE(children_are_others), CASE(threads_have_numbers_of_their_own), CASE(orphans_see_their_new_parent),
     CASE(a_filter_sees_what_was_answered_before), CASE(registers_survive))

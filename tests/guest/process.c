#include "t.h"
#include <sys/resource.h>

static void a_child_exits_with_its_status(void) {
    for (int status = 0; status < 256; status += 51) {
        pid_t child = fork();
        if (child == 0) _exit(status);
        t_exits(child, status);
    }
}

static void a_child_has_its_own_memory(void) {
    volatile int value = 1;
    char *heap = malloc(1 << 20);
    memset(heap, 7, 1 << 20);
    pid_t child = fork();
    if (child == 0) {
        value = 2;
        memset(heap, 8, 1 << 20);
        _exit(value == 2 && heap[4096] == 8 ? 0 : 1);
    }
    t_exits(child, 0);
    EQUAL(value, 1);
    for (int i = 0; i < 1 << 20; i += 512) EQUAL(heap[i], 7);
}

static void death_by_a_signal_is_told(void) {
    int signals[] = {SIGKILL, SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGALRM, SIGPIPE};
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        pid_t child = fork();
        if (child == 0) {
            signal(signals[i], SIG_DFL);
            for (;;) pause();
        }
        CHECK(kill(child, signals[i]) == 0);
        t_dies(child, signals[i]);
    }
}

static void abort_and_faults_kill(void) {
    pid_t child = fork();
    if (child == 0) abort();
    t_dies(child, SIGABRT);
    child = fork();
    if (child == 0) __asm__ volatile("movl $1, 8");
    t_dies(child, SIGSEGV);
    child = fork();
    if (child == 0) __asm__ volatile("ud2");
    t_dies(child, SIGILL);
    child = fork();
    if (child == 0) {
        __asm__ volatile("xorl %%ecx, %%ecx; idivl %%ecx" ::: "eax", "ecx", "edx");
        _exit(0);
    }
    t_dies(child, SIGFPE);
    child = fork();
    if (child == 0) __asm__ volatile("int3");
    t_dies(child, SIGTRAP);
    child = fork();
    if (child == 0) __asm__ volatile("hlt");
    t_dies(child, SIGSEGV);
}

static void wait_has_its_options(void) {
    int status;
    FAILS(waitpid(-1, &status, 0), ECHILD);
    pid_t child = fork();
    if (child == 0) {
        for (;;) pause();
    }
    EQUAL(waitpid(child, &status, WNOHANG), 0);
    CHECK(kill(child, SIGSTOP) == 0);
    EQUAL(waitpid(child, &status, WUNTRACED), child);
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    CHECK(kill(child, SIGCONT) == 0);
    EQUAL(waitpid(child, &status, WCONTINUED), child);
    CHECK(WIFCONTINUED(status));
    CHECK(kill(child, SIGKILL) == 0);
    siginfo_t info;
    memset(&info, 0, sizeof info);
    CHECK(waitid(P_PID, child, &info, WEXITED | WNOWAIT) == 0);
    EQUAL(info.si_pid, child);
    EQUAL(info.si_code, CLD_KILLED);
    EQUAL(info.si_status, SIGKILL);
    t_dies(child, SIGKILL);
    FAILS(waitpid(child, &status, 0), ECHILD);
}

static void wait_selects_by_group(void) {
    pid_t first = fork();
    if (first == 0) {
        setpgid(0, 0);
        _exit(1);
    }
    setpgid(first, first);
    pid_t second = fork();
    if (second == 0) _exit(2);
    int status;
    EQUAL(waitpid(-first, &status, 0), first);
    EQUAL(WEXITSTATUS(status), 1);
    EQUAL(waitpid(0, &status, 0), second);
    EQUAL(WEXITSTATUS(status), 2);
}

static void orphans_go_to_init(void) {
    int ends[2];
    CHECK(pipe(ends) == 0);
    pid_t child = fork();
    if (child == 0) {
        pid_t grandchild = fork();
        if (grandchild == 0) {
            pid_t parent = getpid();
            while (getppid() == parent || getppid() == 0) t_sleep_ms(1);
            for (int i = 0; i < 1000 && getppid() != 1; i++) t_sleep_ms(1);
            pid_t now = getppid();
            if (write(ends[1], &now, sizeof now) < 0) _exit(1);
            _exit(0);
        }
        t_sleep_ms(5);
        _exit(0);
    }
    t_exits(child, 0);
    pid_t parent;
    EQUAL(read(ends[0], &parent, sizeof parent), sizeof parent);
    CHECK(parent != child && parent >= 1);
}

static void ignored_children_leave_no_zombies(void) {
    signal(SIGCHLD, SIG_IGN);
    pid_t child = fork();
    if (child == 0) _exit(3);
    int status;
    FAILS(waitpid(child, &status, 0), ECHILD);
}

static void vfork_shares_memory_until_exec_or_exit(void) {
    volatile int value = 1;
    pid_t child = vfork();
    if (child == 0) {
        value = 2;
        _exit(4);
    }
    EQUAL(value, 2);
    t_exits(child, 4);
}

static void many_children_at_once(void) {
    enum { COUNT = 60 };
    pid_t children[COUNT];
    for (int i = 0; i < COUNT; i++) {
        children[i] = fork();
        if (children[i] == 0) {
            t_sleep_ms(20);
            _exit(i);
        }
        CHECK(children[i] > 0);
    }
    for (int i = 0; i < COUNT; i++) t_exits(children[i], i);
}

/* Each of a line of children waits for the next and adds one. */
static int depth_below(int left) {
    if (left == 0) return 0;
    pid_t child = fork();
    if (child == 0) _exit(depth_below(left - 1));
    return WEXITSTATUS(t_wait(child)) + 1;
}

static void a_line_of_children_counts_itself(void) { EQUAL(depth_below(20), 20); }

static void usage_of_children_is_counted(void) {
    pid_t child = fork();
    if (child == 0) {
        int64_t until = t_now_ns() + 60000000;
        while (t_now_ns() < until) {
        }
        _exit(0);
    }
    struct rusage usage;
    int status;
    EQUAL(wait4(child, &status, 0, &usage), child);
    long us = usage.ru_utime.tv_sec * 1000000 + usage.ru_utime.tv_usec + usage.ru_stime.tv_sec * 1000000 + usage.ru_stime.tv_usec;
    CHECK(us > 5000);
    struct rusage all;
    CHECK(getrusage(RUSAGE_CHILDREN, &all) == 0);
    CHECK(all.ru_utime.tv_sec * 1000000 + all.ru_utime.tv_usec + all.ru_stime.tv_sec * 1000000 + all.ru_stime.tv_usec >= us / 2);
}

static void fork_and_exit_over_and_over(void) {
    long count = t_scaled(500);
    for (long i = 0; i < count; i++) {
        pid_t child = fork();
        if (child == 0) _exit(i & 127);
        t_exits(child, i & 127);
    }
}

static void clone_without_an_exit_signal_needs_wclone(void) {
    long child = syscall(SYS_clone, 0, 0, 0, 0, 0);
    if (child == 0) _exit(9);
    int status;
    FAILS(waitpid(child, &status, 0), ECHILD);
    EQUAL(waitpid(child, &status, __WALL), child);
    EQUAL(WEXITSTATUS(status), 9);
}

MAIN(CASE(a_child_exits_with_its_status), CASE(a_child_has_its_own_memory), CASE(death_by_a_signal_is_told), CASE(abort_and_faults_kill),
     CASE(wait_has_its_options), CASE(wait_selects_by_group), CASE(orphans_go_to_init), CASE(ignored_children_leave_no_zombies),
     CASE(vfork_shares_memory_until_exec_or_exit), CASE(many_children_at_once), CASE(a_line_of_children_counts_itself),
     CASE(usage_of_children_is_counted), CASE(fork_and_exit_over_and_over), CASE(clone_without_an_exit_signal_needs_wclone))

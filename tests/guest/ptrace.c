/* One process traces another. */
#define _GNU_SOURCE
#include "t.h"
#include <elf.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>

static long trace(int request, pid_t pid, long addr, long data) { return syscall(SYS_ptrace, request, pid, addr, data); }

/* Waits for a stop and answers what it is about: the signal, with the event above it. */
static int stop_of(pid_t pid) {
    int status = 0;
    CHECK(waitpid(pid, &status, __WALL) == pid);
    if (!WIFSTOPPED(status)) t_say("  status %#x", status);
    CHECK(WIFSTOPPED(status));
    return status >> 8;
}

static void a_child_asks_to_be_traced(void) {
    static volatile long variable = 41;
    pid_t child = fork();
    if (child == 0) {
        CHECK(trace(PTRACE_TRACEME, 0, 0, 0) == 0);
        raise(SIGSTOP);
        _exit(variable == 42 ? 7 : 1);
    }
    EQUAL(stop_of(child), SIGSTOP);
    long word;
    CHECK(trace(PTRACE_PEEKDATA, child, (long)&variable, (long)&word) == 0);
    EQUAL(word, 41);
    CHECK(trace(PTRACE_POKEDATA, child, (long)&variable, 42) == 0);
    FAILS(trace(PTRACE_PEEKDATA, child, 8, (long)&word), EIO);
    siginfo_t info;
    CHECK(trace(PTRACE_GETSIGINFO, child, 0, (long)&info) == 0);
    EQUAL(info.si_signo, SIGSTOP);
    char name[64], text[4096];
    sprintf(name, "/proc/%d/status", child);
    int fd = open(name, O_RDONLY);
    text[read(fd, text, sizeof text - 1)] = 0;
    char wanted[64];
    sprintf(wanted, "TracerPid:\t%d\n", getpid());
    CHECK(strstr(text, wanted) && strstr(text, "State:\tt (tracing stop)"));
    struct user_regs_struct regs;
    CHECK(trace(PTRACE_GETREGS, child, 0, (long)&regs) == 0);
    CHECK(regs.rip && regs.rsp && regs.cs == 0x33);
    CHECK(trace(PTRACE_PEEKUSER, child, offsetof(struct user, regs.rip), (long)&word) == 0);
    EQUAL(word, (long)regs.rip);
    FAILS(trace(PTRACE_CONT, child, 0, 9999), EIO);
    CHECK(trace(PTRACE_CONT, child, 0, 0) == 0);
    FAILS(trace(PTRACE_GETREGS, child, 0, (long)&regs), ESRCH);
    t_exits(child, 7);
}

static void system_calls_are_seen_and_changed(void) {
    pid_t child = fork();
    if (child == 0) {
        trace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        errno = 0;
        if (syscall(SYS_getppid) != 4711) _exit(1);
        if (syscall(SYS_getpgid, 1, 2, 3, 4, 5, 6) != -1 || errno != ENOSYS) _exit(2);
        _exit(3);
    }
    EQUAL(stop_of(child), SIGSTOP);
    CHECK(trace(PTRACE_SETOPTIONS, child, 0, PTRACE_O_TRACESYSGOOD) == 0);
    struct user_regs_struct regs;
    struct __ptrace_syscall_info info;
    int seen = 0;
    for (;;) {
        CHECK(trace(PTRACE_SYSCALL, child, 0, 0) == 0);
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        if (WIFEXITED(status)) {
            EQUAL(WEXITSTATUS(status), 3);
            break;
        }
        EQUAL(status >> 8, SIGTRAP | 0x80);
        CHECK(trace(PTRACE_GETREGS, child, 0, (long)&regs) == 0);
        long size = trace(PTRACE_GET_SYSCALL_INFO, child, sizeof info, (long)&info);
        CHECK(size > 24 && info.arch == 0xc000003e && info.instruction_pointer == regs.rip);
        if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
            EQUAL(info.entry.nr, regs.orig_rax);
            EQUAL((long)regs.rax, -ENOSYS);
            if (info.entry.nr == SYS_getpgid) {
                for (int i = 0; i < 6; i++) EQUAL(info.entry.args[i], i + 1);
                regs.orig_rax = -1;
                CHECK(trace(PTRACE_SETREGS, child, 0, (long)&regs) == 0);
                seen++;
            }
        } else {
            EQUAL(info.op, PTRACE_SYSCALL_INFO_EXIT);
            if (regs.orig_rax == SYS_getppid) {
                EQUAL(info.exit.rval, getpid());
                regs.rax = 4711;
                CHECK(trace(PTRACE_SETREGS, child, 0, (long)&regs) == 0);
                seen++;
            }
        }
    }
    EQUAL(seen, 2);
}

static void signals_pass_by_the_tracer(void) {
    pid_t child = fork();
    if (child == 0) {
        trace(PTRACE_TRACEME, 0, 0, 0);
        signal(SIGUSR1, SIG_IGN);
        raise(SIGUSR1);
        kill(getpid(), SIGTERM);
        raise(SIGSEGV);
        _exit(1);
    }
    EQUAL(stop_of(child), SIGUSR1);
    CHECK(trace(PTRACE_CONT, child, 0, SIGUSR1) == 0);
    EQUAL(stop_of(child), SIGTERM);
    CHECK(trace(PTRACE_CONT, child, 0, 0) == 0);
    EQUAL(stop_of(child), SIGSEGV);
    CHECK(trace(PTRACE_CONT, child, 0, SIGKILL) == 0);
    t_dies(child, SIGKILL);
}

__attribute__((noinline)) static int target(int x) { return x * 3; }

static void breakpoints_and_single_steps(void) {
    pid_t child = fork();
    if (child == 0) {
        trace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        int (*volatile call)(int) = target;
        _exit(call(5));
    }
    EQUAL(stop_of(child), SIGSTOP);
    long at = (long)target, code;
    CHECK(trace(PTRACE_PEEKTEXT, child, at, (long)&code) == 0);
    CHECK(trace(PTRACE_POKETEXT, child, at, (code & ~0xffl) | 0xcc) == 0);
    CHECK(trace(PTRACE_CONT, child, 0, 0) == 0);
    EQUAL(stop_of(child), SIGTRAP);
    struct user_regs_struct regs;
    CHECK(trace(PTRACE_GETREGS, child, 0, (long)&regs) == 0);
    EQUAL(regs.rip, at + 1);
    EQUAL(regs.rdi, 5);
    CHECK(trace(PTRACE_POKETEXT, child, at, code) == 0);
    regs.rip = at;
    regs.rdi = 6;
    CHECK(trace(PTRACE_SETREGS, child, 0, (long)&regs) == 0);
    unsigned long before = regs.rip;
    for (int i = 0; i < 3; i++) {
        CHECK(trace(PTRACE_SINGLESTEP, child, 0, 0) == 0);
        EQUAL(stop_of(child), SIGTRAP);
        CHECK(trace(PTRACE_GETREGS, child, 0, (long)&regs) == 0);
        CHECK(regs.rip != before && !(regs.eflags & 0x100));
        if (i == 0) CHECK(regs.rip - at < 16);
        before = regs.rip;
    }
    siginfo_t info;
    CHECK(trace(PTRACE_GETSIGINFO, child, 0, (long)&info) == 0);
    EQUAL(info.si_code, TRAP_TRACE);
    CHECK(trace(PTRACE_CONT, child, 0, 0) == 0);
    t_exits(child, 18);
    /* The page was the child's own. */
    EQUAL(*(long *)target, code);
}

static void forks_and_execs_are_events(void) {
    pid_t child = fork();
    if (child == 0) {
        trace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        pid_t inner = fork();
        if (inner == 0) _exit(5);
        t_exits(inner, 5);
        execl("/proc/self/exe", "ptrace", "exit", NULL);
        _exit(1);
    }
    EQUAL(stop_of(child), SIGSTOP);
    long options = PTRACE_O_TRACEFORK | PTRACE_O_TRACEEXEC | PTRACE_O_TRACEEXIT;
    CHECK(trace(PTRACE_SETOPTIONS, child, 0, options) == 0);
    CHECK(trace(PTRACE_CONT, child, 0, 0) == 0);
    EQUAL(stop_of(child), SIGTRAP | PTRACE_EVENT_FORK << 8);
    unsigned long inner, message;
    CHECK(trace(PTRACE_GETEVENTMSG, child, 0, (long)&inner) == 0 && inner > 0);
    EQUAL(stop_of(inner), SIGSTOP);
    CHECK(trace(PTRACE_CONT, child, 0, 0) == 0 && trace(PTRACE_CONT, inner, 0, 0) == 0);
    EQUAL(stop_of(inner), SIGTRAP | PTRACE_EVENT_EXIT << 8);
    CHECK(trace(PTRACE_GETEVENTMSG, inner, 0, (long)&message) == 0);
    EQUAL(message, 5 << 8);
    CHECK(trace(PTRACE_CONT, inner, 0, 0) == 0);
    int status;
    CHECK(waitpid(inner, &status, __WALL) == (pid_t)inner);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 5);
    int stop = stop_of(child);
    if (stop == SIGCHLD) {
        CHECK(trace(PTRACE_CONT, child, 0, SIGCHLD) == 0);
        stop = stop_of(child);
    }
    EQUAL(stop, SIGTRAP | PTRACE_EVENT_EXEC << 8);
    CHECK(trace(PTRACE_GETEVENTMSG, child, 0, (long)&message) == 0);
    EQUAL(message, child);
    CHECK(trace(PTRACE_CONT, child, 0, 0) == 0);
    EQUAL(stop_of(child), SIGTRAP | PTRACE_EVENT_EXIT << 8);
    CHECK(trace(PTRACE_DETACH, child, 0, 0) == 0);
    t_exits(child, 23);
}

static void a_stranger_is_seized_and_let_go(void) {
    volatile long *counter = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t child = fork();
    if (child == 0)
        for (;;) ++*counter;
    CHECK(trace(PTRACE_SEIZE, child, 0, 0) == 0);
    FAILS(trace(PTRACE_ATTACH, child, 0, 0), EPERM);
    CHECK(trace(PTRACE_INTERRUPT, child, 0, 0) == 0);
    EQUAL(stop_of(child), SIGTRAP | PTRACE_EVENT_STOP << 8);
    long before = *counter;
    t_sleep_ms(20);
    EQUAL(*counter, before);
    CHECK(trace(PTRACE_CONT, child, 0, 0) == 0);
    /* A stop of the whole process, to which the tracer listens. */
    kill(child, SIGSTOP);
    EQUAL(stop_of(child), SIGSTOP);
    CHECK(trace(PTRACE_CONT, child, 0, SIGSTOP) == 0);
    EQUAL(stop_of(child), SIGSTOP | PTRACE_EVENT_STOP << 8);
    CHECK(trace(PTRACE_LISTEN, child, 0, 0) == 0);
    struct user_regs_struct regs;
    FAILS(trace(PTRACE_GETREGS, child, 0, (long)&regs), ESRCH);
    kill(child, SIGCONT);
    EQUAL(stop_of(child), SIGTRAP | PTRACE_EVENT_STOP << 8);
    CHECK(trace(PTRACE_CONT, child, 0, 0) == 0);
    EQUAL(stop_of(child), SIGCONT);
    CHECK(trace(PTRACE_DETACH, child, 0, 0) == 0);
    before = *counter;
    for (int i = 0; i < 1000 && *counter == before; i++) t_sleep_ms(5);
    CHECK(*counter != before);
    CHECK(trace(PTRACE_ATTACH, child, 0, 0) == 0);
    EQUAL(stop_of(child), SIGSTOP);
    CHECK(trace(PTRACE_DETACH, child, 0, SIGTERM) == 0);
    t_dies(child, SIGTERM);
    FAILS(trace(PTRACE_ATTACH, getpid(), 0, 0), EPERM);
    FAILS(trace(PTRACE_CONT, child, 0, 0), ESRCH);
}

static void *end_at_once(void *arg) { return arg; }

static void threads_are_followed(void) {
    pid_t child = fork();
    if (child == 0) {
        trace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        pthread_t thread;
        pthread_create(&thread, NULL, end_at_once, NULL);
        pthread_join(thread, NULL);
        _exit(6);
    }
    EQUAL(stop_of(child), SIGSTOP);
    CHECK(trace(PTRACE_SETOPTIONS, child, 0, PTRACE_O_TRACECLONE) == 0);
    CHECK(trace(PTRACE_CONT, child, 0, 0) == 0);
    EQUAL(stop_of(child), SIGTRAP | PTRACE_EVENT_CLONE << 8);
    unsigned long tid;
    CHECK(trace(PTRACE_GETEVENTMSG, child, 0, (long)&tid) == 0);
    EQUAL(stop_of(tid), SIGSTOP);
    CHECK(trace(PTRACE_CONT, tid, 0, 0) == 0 && trace(PTRACE_CONT, child, 0, 0) == 0);
    int status;
    CHECK(waitpid(tid, &status, __WALL) == (pid_t)tid);
    /* The code may be that of the whole process already, if that ends first. */
    CHECK(WIFEXITED(status));
    t_exits(child, 6);
}

static void the_vector_state_is_read_and_set(void) {
    pid_t child = fork();
    if (child == 0) {
        trace(PTRACE_TRACEME, 0, 0, 0);
        long found = 0;
        __asm__ volatile("movq %1, %%xmm5\n\tmov %2, %%edi\n\tmov %3, %%esi\n\tmov $62, %%eax\n\tsyscall\n\tmovq %%xmm5, %0"
                         : "=r"(found)
                         : "r"(0x1234l), "r"(getpid()), "i"(SIGSTOP)
                         : "rax", "rdi", "rsi", "rcx", "r11", "xmm5", "memory");
        _exit(found == 0x5678 ? 8 : 1);
    }
    EQUAL(stop_of(child), SIGSTOP);
    struct user_fpregs_struct fp;
    CHECK(trace(PTRACE_GETFPREGS, child, 0, (long)&fp) == 0);
    EQUAL(fp.xmm_space[5 * 4], 0x1234);
    static char state[16384];
    struct iovec part = {state, sizeof state};
    CHECK(trace(PTRACE_GETREGSET, child, NT_X86_XSTATE, (long)&part) == 0);
    CHECK(part.iov_len >= 576);
    EQUAL(*(long *)(state + 160 + 5 * 16), 0x1234);
    CHECK(*(unsigned long *)(state + 464) & 3);
    *(long *)(state + 160 + 5 * 16) = 0x5678;
    CHECK(trace(PTRACE_SETREGSET, child, NT_X86_XSTATE, (long)&part) == 0);
    FAILS(trace(PTRACE_GETREGSET, child, 0x7777, (long)&part), EINVAL);
    CHECK(trace(PTRACE_CONT, child, 0, 0) == 0);
    t_exits(child, 8);
}

static void a_dead_tracer_lets_go_or_kills(void) {
    int ends[2];
    CHECK(pipe(ends) == 0);
    for (int kills = 0; kills < 2; kills++) {
        pid_t child = fork();
        if (child == 0)
            for (;;) pause();
        pid_t tracer = fork();
        if (tracer == 0) {
            CHECK(trace(PTRACE_SEIZE, child, 0, kills ? PTRACE_O_EXITKILL : 0) == 0);
            _exit(0);
        }
        t_exits(tracer, 0);
        if (!kills) {
            CHECK(kill(child, SIGTERM) == 0);
            t_dies(child, SIGTERM);
        } else {
            t_dies(child, SIGKILL);
        }
    }
}

static void memory_is_a_file(void) {
    static const char text[] = "constant", *volatile constant = text;
    pid_t child = fork();
    if (child == 0) {
        trace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        _exit(strcmp(constant, "kanstant") ? 1 : 4);
    }
    EQUAL(stop_of(child), SIGSTOP);
    char name[64], found[16];
    sprintf(name, "/proc/%d/mem", child);
    int fd = open(name, O_RDWR);
    CHECK(fd >= 0);
    EQUAL(pread(fd, found, 9, (long)constant), 9);
    CHECK(!strcmp(found, "constant"));
    EQUAL(pwrite(fd, "ka", 2, (long)constant), 2);
    FAILS(pread(fd, found, 9, 8), EIO);
    CHECK(!strcmp(constant, "constant"));
    CHECK(trace(PTRACE_CONT, child, 0, 0) == 0);
    t_exits(child, 4);
    EQUAL(pread(fd, found, 9, (long)constant), 0);
}

static const struct t_case cases[] = {
    CASE(a_child_asks_to_be_traced), CASE(system_calls_are_seen_and_changed), CASE(signals_pass_by_the_tracer),
    CASE(breakpoints_and_single_steps), CASE(forks_and_execs_are_events), CASE(a_stranger_is_seized_and_let_go),
    CASE(threads_are_followed), CASE(the_vector_state_is_read_and_set), CASE(a_dead_tracer_lets_go_or_kills), CASE(memory_is_a_file)};

int main(int argc, char **argv) {
    (void)argv;
    if (argc > 1) return 23;
    return t_main(cases, sizeof cases / sizeof cases[0]);
}

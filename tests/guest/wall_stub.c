// timeout: 60
// guest-only: it attacks the code that stands between a program and its kernel, which only a machine has there
#include "t.h"
#include <pthread.h>
#include <setjmp.h>
#include <stddef.h>
#include <ucontext.h>

/* A program takes the place of the code that the host enters on its behalf: it forges the host's own signal frames, the reports to its kernel,
 * and the memory of threads that are being born. It may end by that. It may not run on when it is killed, nor hold up anybody else. */

#define STUB 0x7fff00000000ul
#define CODE (STUB + 0x10000)
#define CODE_LENGTH 0x2000
#define SLOTS (STUB + 0x10000000)
#define SLOT 0x10000ul

/* The address of the n-th place in the stub that has these bytes; 0 for none. */
static unsigned long find(const char *bytes, size_t length) {
    for (unsigned long at = CODE; at + length < CODE + CODE_LENGTH; at++)
        if (!memcmp((void *)at, bytes, length)) return at;
    return 0;
}

/* `mov $15, %eax; syscall`: the way back from the handler to the program. */
static unsigned long sigreturn_site(void) {
    unsigned long at = find("\xb8\x0f\x00\x00\x00\x0f\x05", 7);
    CHECK(at != 0);
    return at;
}

static volatile long *shared_counter(void) {
    volatile long *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(at != MAP_FAILED);
    return at;
}

static volatile long *counter;
static void count_for_ever(void) {
    for (;;) ++*counter;
}

/* Goes on in count_for_ever() by the host's own rt_sigreturn, with a frame of ours. */
static void enter_by_frame(uint64_t mask, const stack_t *stack, long flags) {
    static char other[65536] __attribute__((aligned(64)));
    static ucontext_t uc;
    memset(&uc, 0, sizeof uc);
    uc.uc_mcontext.gregs[REG_RIP] = (long)count_for_ever;
    uc.uc_mcontext.gregs[REG_RSP] = (long)(other + sizeof other - 4096 - 8);
    uc.uc_mcontext.gregs[REG_EFL] = 0x202 | flags;
    uc.uc_mcontext.gregs[REG_CSGSFS] = 0x002b000000000033;
    uc.uc_stack = *stack;
    memcpy(&uc.uc_sigmask, &mask, 8);
    unsigned long site = sigreturn_site();
    __asm__ volatile("movq %0, %%rsp; jmp *%1" ::"r"(&uc), "r"(site) : "memory");
    __builtin_unreachable();
}

/* The child counts; it is killed, or was killed for what it did; after that it counts no more. */
static void is_stopped_for_good(pid_t child) {
    t_sleep_ms(30);
    CHECK(kill(child, SIGKILL) == 0);
    t_dies(child, SIGKILL);
    long before = *counter;
    t_sleep_ms(30);
    EQUAL(*counter, before);
}

static void host_frames_that_block_every_signal_do_not_defeat_a_kill(void) {
    counter = shared_counter();
    const stack_t none = {.ss_flags = SS_DISABLE};
    for (int i = 0; i < 8; i++) {
        pid_t child = fork();
        if (child == 0) enter_by_frame(~0ul, &none, 0);
        is_stopped_for_good(child);
    }
}

static void host_frames_that_move_the_signal_stack_do_not_defeat_a_kill(void) {
    counter = shared_counter();
    static char somewhere[65536];
    const stack_t stacks[] = {
        {.ss_sp = somewhere, .ss_size = sizeof somewhere},
        {.ss_sp = (void *)SLOTS, .ss_size = SLOT * 4},
        {.ss_sp = (void *)CODE, .ss_size = CODE_LENGTH},
        {.ss_sp = (void *)0x1000, .ss_size = 65536},
    };
    for (size_t i = 0; i < 2 * sizeof stacks / sizeof *stacks; i++) {
        pid_t child = fork();
        if (child == 0) enter_by_frame(i & 1 ? ~0ul : 0, &stacks[i / 2], 0);
        t_sleep_ms(10);
        is_stopped_for_good(child);
    }
}

/* Several at once, more than there are processors: everybody else still gets on. */
static void defiant_programs_hold_up_nobody(void) {
    counter = shared_counter();
    const stack_t none = {.ss_flags = SS_DISABLE};
    pid_t children[6];
    for (int i = 0; i < 6; i++)
        if ((children[i] = fork()) == 0) enter_by_frame(~0ul, &none, 0);
    int64_t start = t_now_ns();
    for (int i = 0; i < 20; i++) {
        pid_t child = fork();
        if (child == 0) _exit(3);
        t_exits(child, 3);
    }
    CHECK(t_now_ns() - start < 20000000000);
    for (int i = 0; i < 6; i++) {
        kill(children[i], SIGKILL);
        t_dies(children[i], SIGKILL);
    }
}

/* A mark that its frames keep tells a thread where they are. */
static sigjmp_buf back;
static void leave(int number) { siglongjmp(back, number); }
static bool is_there(unsigned long page) {
    signal(SIGSEGV, leave);
    if (sigsetjmp(back, 1)) return false;
    (void)*(volatile char *)page;
    return true;
}

static unsigned long find_home(void) {
    unsigned long mark = 0x756d6c617574c0deul + getpid();
    __asm__ volatile("movl $62, %%eax; xorl %%edi, %%edi; movl $1000, %%esi; movq %0, %%r15; xorq %0, %0; syscall; movq %%r15, %0"
                     : "+r"(mark)
                     :
                     : "rax", "rcx", "rdx", "rdi", "rsi", "r8", "r9", "r11", "r15", "memory");
    for (unsigned long page = SLOTS; page < SLOTS + 4 * SLOT; page += 4096)
        if (is_there(page))
            for (unsigned long *at = (void *)page; at < (unsigned long *)(page + 4096); at++)
                if (*(volatile unsigned long *)at == mark) return (unsigned long)at - offsetof(ucontext_t, uc_mcontext.gregs[REG_R15]);
    return 0;
}

/* A report that nobody asked for, by each call that the stub can make, with and without a trap after the call: a signal between telling and
 * waiting must not let the program run while its kernel thinks that it waits. */
static void forged_reports_let_nobody_run_unseen(void) {
    counter = shared_counter();
    for (unsigned long site = CODE; site + 1 < CODE + CODE_LENGTH; site++) {
        const volatile unsigned char *code = (void *)site;
        if (code[0] != 0x0f || code[1] != 0x05) continue;
        for (int variant = 0; variant < 8; variant++) {
            pid_t child = fork();
            if (child == 0) {
                unsigned long home = find_home();
                unsigned long words = (home & -SLOT) + SLOT - 0x100;
                signal(SIGSEGV, SIG_DFL);
                signal(SIGTRAP, (void (*)(int))count_for_ever);
                const unsigned long report[6] = {variant & 1 ? SIGUSR1 : SIGSYS, home, 0, 0, 0x401000, 0xc000003eul << 32 | SYS_pause};
                memcpy((void *)(words + 0x28), report, sizeof report);
                bool socket = variant & 2;
                register unsigned long r10 __asm__("r10") = socket ? 0x4000 : 0;
                register unsigned long r8 __asm__("r8") = socket ? 0 : report[4];
                register unsigned long r9 __asm__("r9") = socket ? home : report[5];
                unsigned long rdi = socket ? *(volatile unsigned *)(words + 0x10) : report[0], rsi = socket ? words + 0x20 : home;
                unsigned long number = socket ? SYS_sendto : 0xf01, rdx = socket ? 56 : report[2];
                unsigned long flags = 0x202 | (variant & 4 ? 0x100 : 0);
                __asm__ volatile("pushq %[to]; pushq %[flags]; popfq; ret" ::[to] "r"(site), [flags] "r"(flags), "a"(number), "D"(rdi),
                                 "S"(rsi), "d"(rdx), "r"(r10), "r"(r8), "r"(r9)
                                 : "memory");
                __builtin_unreachable();
            }
            int status;
            for (int i = 0; i < 20 && waitpid(child, &status, WNOHANG) == 0; i++) usleep(500);
            if (kill(child, SIGKILL) == 0) waitpid(child, &status, 0);
            long before = *counter;
            usleep(1000);
            EQUAL(*counter, before);
        }
    }
}

/* Where the handler waits for its kernel, with every signal blocked: asleep and silent. It can still be killed. */
static void a_thread_that_waits_for_a_word_that_never_comes_can_be_killed(void) {
    counter = shared_counter();
    for (unsigned long site = CODE; site + 1 < CODE + CODE_LENGTH; site++) {
        const volatile unsigned char *code = (void *)site;
        if (code[0] != 0x0f || code[1] != 0x05) continue;
        pid_t child = fork();
        if (child == 0) {
            unsigned long home = find_home(), words = (home & -SLOT) + SLOT - 0x100;
            static ucontext_t uc;
            uc.uc_stack.ss_flags = SS_DISABLE;
            greg_t *r = uc.uc_mcontext.gregs;
            r[REG_RIP] = site;
            r[REG_RSP] = home;
            r[REG_EFL] = 0x202;
            r[REG_CSGSFS] = 0x002b000000000033;
            r[REG_RAX] = SYS_recvfrom;
            r[REG_RDI] = *(volatile unsigned *)(words + 0x10);
            r[REG_RSI] = words + 0x20;
            r[REG_RDX] = 8;
            r[REG_R9] = home;
            memset(&uc.uc_sigmask, 0xff, 8);
            __asm__ volatile("movq %0, %%rsp; jmp *%1" ::"r"(&uc), "r"(sigreturn_site()) : "memory");
        }
        t_sleep_ms(2);
        kill(child, SIGKILL);
        t_wait(child);
    }
}

/* The memory of threads that are being born, written by a sibling all the time. */
static volatile int stop;
static void *scribble(void *unused) {
    unsigned random = 1;
    while (!stop)
        for (unsigned long slot = SLOTS + 2 * SLOT; slot < SLOTS + 12 * SLOT; slot += SLOT) {
            random = random * 1103515245 + 12345;
            if (sigsetjmp(back, 0) == 0)
                for (int i = 0; i < 8; i++) ((volatile unsigned long *)(slot + SLOT - 0x100))[i] = i == 2 ? random % 16 : (long)random << 20;
        }
    return unused;
}

static void *nothing(void *unused) { return unused; }

static void scribbled_newborns_hurt_only_their_process(void) {
    for (int round = 0; round < t_scaled(20); round++) {
        pid_t child = fork();
        if (child == 0) {
            signal(SIGSEGV, leave);
            alarm(2);
            pthread_t scribbler, thread;
            pthread_create(&scribbler, NULL, scribble, NULL);
            for (int i = 0; i < 300; i++)
                if (pthread_create(&thread, NULL, nothing, NULL) == 0) pthread_detach(thread);
            _exit(0);
        }
        t_wait(child);
        child = fork();
        if (child == 0) _exit(6);
        t_exits(child, 6);
    }
}

/* A sibling writes into the frame and the words of a thread all the time, which makes calls. */
static volatile unsigned long *target;
static void *scribble_over_target(void *unused) {
    for (unsigned long i = 0;; i++) target[i % 32] = i * 0x9e3779b97f4a7c15ul;
    return unused;
}

static void scribbled_frames_hurt_only_their_process(void) {
    for (int round = 0; round < t_scaled(20); round++) {
        pid_t child = fork();
        if (child == 0) {
            unsigned long home = find_home();
            signal(SIGSEGV, SIG_DFL);
            alarm(2);
            target = (void *)(round & 1 ? home : (home & -SLOT) + SLOT - 0x100);
            pthread_t thread;
            pthread_create(&thread, NULL, scribble_over_target, NULL);
            for (int i = 0; i < 2000; i++) {
                getppid();
                kill(getpid(), 0);
            }
            _exit(0);
        }
        t_wait(child);
        child = fork();
        if (child == 0) _exit(6);
        t_exits(child, 6);
    }
}

MAIN(CASE(host_frames_that_block_every_signal_do_not_defeat_a_kill), CASE(host_frames_that_move_the_signal_stack_do_not_defeat_a_kill),
     CASE(defiant_programs_hold_up_nobody), CASE(forged_reports_let_nobody_run_unseen),
     CASE(a_thread_that_waits_for_a_word_that_never_comes_can_be_killed), CASE(scribbled_newborns_hurt_only_their_process),
     CASE(scribbled_frames_hurt_only_their_process))

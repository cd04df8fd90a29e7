// timeout: 60
#include "t.h"
#include <pthread.h>
#include <ucontext.h>

/* Forged signal frames. A frame lies in the program's own memory and it may put there what it likes; it may end by that, nobody else may. */

static volatile sig_atomic_t hits;
static void hit(int number) { hits++; }

/* Calls rt_sigreturn with a frame of our making at the stack pointer. */
static void return_to(const void *frame) {
    __asm__ volatile("movq %0, %%rsp; movl $15, %%eax; syscall; ud2" ::"r"(frame) : "memory");
    __builtin_unreachable();
}

static void ends_somehow(pid_t child) {
    int status = 0;
    for (int i = 0; i < 3000; i++) {
        if (waitpid(child, &status, WNOHANG) == child) return;
        usleep(1000);
    }
    CHECK(kill(child, SIGKILL) == 0);
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status));
}

static void random_frames_end_only_their_process(void) {
    long rounds = t_scaled(60);
    for (long round = 0; round < rounds; round++) {
        pid_t child = fork();
        if (child == 0) {
            unsigned random = round * 2654435761u + 1;
            static _Alignas(64) unsigned char frame[8192];
            for (size_t i = 0; i < sizeof frame; i++) frame[i] = (random = random * 1103515245 + 12345) >> 16;
            if (round % 3 == 0) memset(frame, 0, sizeof frame);
            if (round % 3 == 1) memset(frame, 0xff, 300);
            alarm(2);
            return_to(frame + 1024);
        }
        ends_somehow(child);
    }
}

/* A frame that is well formed but blocks every signal, as seen by whoever reads it: SIGKILL and the machine's own preemption still work. */
static void spin(void) {
    for (;;) __asm__ volatile("pause");
}

static void block_all(int number, siginfo_t *info, void *context) {
    ucontext_t *uc = context;
    memset(&uc->uc_sigmask, 0xff, 8);
    uc->uc_mcontext.gregs[REG_RIP] = (long)spin;
    uc->uc_stack.ss_sp = (void *)0x10000;
    uc->uc_stack.ss_size = 1 << 20;
    uc->uc_stack.ss_flags = 0;
}

static void frames_that_block_everything_do_not_stop_a_kill(void) {
    for (int i = 0; i < 10; i++) {
        pid_t child = fork();
        if (child == 0) {
            struct sigaction a = {.sa_sigaction = block_all, .sa_flags = SA_SIGINFO};
            sigaction(SIGUSR1, &a, NULL);
            raise(SIGUSR1);
            _exit(1);
        }
        t_sleep_ms(10);
        CHECK(kill(child, SIGKILL) == 0);
        t_dies(child, SIGKILL);
    }
}

static void change_registers(int number, siginfo_t *info, void *context) {
    ucontext_t *uc = context;
    switch (hits++) {
    case 0: uc->uc_mcontext.gregs[REG_EFL] |= 0x3000 | 0x4000 | 0x20000; break;  /* IOPL, NT, VM */
    case 1: uc->uc_mcontext.gregs[REG_CSGSFS] = 0x0010001000100010; break;       /* kernel selectors */
    case 2: uc->uc_mcontext.gregs[REG_RIP] = 0xffffffff80000000; break;
    case 3: uc->uc_mcontext.gregs[REG_RSP] = 0xffff800000000000; break;
    case 4: uc->uc_mcontext.gregs[REG_RIP] = 0x8000000000000000; break;
    case 5: uc->uc_mcontext.fpregs = (void *)0xffffffff81000000; break;
    case 6: uc->uc_mcontext.fpregs = (void *)1; break;
    case 7: uc->uc_mcontext.fpregs->mxcsr = 0xffffffff; break;
    case 8: memset((char *)uc->uc_mcontext.fpregs + 512, 0xff, 64); break;       /* the xstate header */
    case 9: memset((char *)uc->uc_mcontext.fpregs + 464, 0xff, 48); break;       /* the software-reserved bytes */
    }
}

static void wild_registers_in_a_frame_are_refused_or_harmless(void) {
    for (int which = 0; which < 10; which++) {
        pid_t child = fork();
        if (child == 0) {
            hits = which;
            struct sigaction a = {.sa_sigaction = change_registers, .sa_flags = SA_SIGINFO};
            sigaction(SIGUSR1, &a, NULL);
            alarm(2);
            raise(SIGUSR1);
            unsigned long flags;
            __asm__ volatile("pushfq; popq %0" : "=r"(flags));
            /* No input-output privilege came of it. */
            _exit(flags & 0x3000 ? 66 : 0);
        }
        int status = t_wait(child);
        CHECK(!WIFEXITED(status) || WEXITSTATUS(status) == 0);
    }
}

static void spinning_children_can_be_killed(void) {
    pid_t children[6];
    for (int i = 0; i < 6; i++)
        if ((children[i] = fork()) == 0) {
            if (i & 1) {
                sigset_t all;
                sigfillset(&all);
                sigprocmask(SIG_SETMASK, &all, NULL);
            }
            spin();
        }
    t_sleep_ms(100);
    for (int i = 0; i < 6; i++) CHECK(kill(children[i], SIGKILL) == 0);
    for (int i = 0; i < 6; i++) t_dies(children[i], SIGKILL);
}

static void *spin_thread(void *unused) {
    spin();
    return unused;
}

static void spinning_threads_can_be_killed(void) {
    for (int round = 0; round < 10; round++) {
        pid_t child = fork();
        if (child == 0) {
            pthread_t thread;
            for (int i = 0; i < 4; i++) pthread_create(&thread, NULL, spin_thread, NULL);
            if (round & 1) {
                t_sleep_ms(5);
                _exit(9);
            }
            spin();
        }
        t_sleep_ms(20);
        if (round & 1)
            t_exits(child, 9);
        else {
            kill(child, SIGKILL);
            t_dies(child, SIGKILL);
        }
    }
}

static void a_spinner_does_not_starve_the_others(void) {
    pid_t children[4];
    for (int i = 0; i < 4; i++)
        if ((children[i] = fork()) == 0) spin();
    int64_t start = t_now_ns();
    for (int i = 0; i < 50; i++) t_sleep_ms(1);
    int64_t took = t_now_ns() - start;
    for (int i = 0; i < 4; i++) kill(children[i], SIGKILL);
    for (int i = 0; i < 4; i++) t_dies(children[i], SIGKILL);
    CHECK(took < 5000000000);
}

MAIN(CASE(random_frames_end_only_their_process), CASE(frames_that_block_everything_do_not_stop_a_kill),
     CASE(wild_registers_in_a_frame_are_refused_or_harmless), CASE(spinning_children_can_be_killed), CASE(spinning_threads_can_be_killed),
     CASE(a_spinner_does_not_starve_the_others))

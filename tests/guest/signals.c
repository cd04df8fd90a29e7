#include "t.h"
#include <setjmp.h>
#include <sys/time.h>
#include <ucontext.h>

static volatile sig_atomic_t count, last;
static void counter(int number) {
    count++;
    last = number;
}

static void handle(int number, void (*handler)(int), int flags) {
    struct sigaction a = {.sa_handler = handler, .sa_flags = flags};
    CHECK(sigaction(number, &a, NULL) == 0);
}

static void handlers_run_and_return(void) {
    handle(SIGUSR1, counter, 0);
    for (int i = 0; i < 1000; i++) CHECK(raise(SIGUSR1) == 0);
    EQUAL(count, 1000);
    EQUAL(last, SIGUSR1);
}

static volatile siginfo_t seen;
static ucontext_t seen_context;
static void inform(int number, siginfo_t *info, void *context) {
    last = number;
    seen = *info;
    memcpy(&seen_context, context, sizeof(ucontext_t) - sizeof seen_context.__fpregs_mem - sizeof seen_context.__ssp);
    count++;
}

static void handle_info(int number, int flags) {
    struct sigaction a = {.sa_sigaction = inform, .sa_flags = SA_SIGINFO | flags};
    CHECK(sigaction(number, &a, NULL) == 0);
}

static void the_sender_is_told(void) {
    handle_info(SIGUSR1, 0);
    CHECK(kill(getpid(), SIGUSR1) == 0);
    EQUAL(seen.si_signo, SIGUSR1);
    EQUAL(seen.si_code, SI_USER);
    EQUAL(seen.si_pid, getpid());
    EQUAL(seen.si_uid, getuid());
    handle_info(SIGRTMIN, 0);
    union sigval value = {.sival_int = 4711};
    CHECK(sigqueue(getpid(), SIGRTMIN, value) == 0);
    EQUAL(seen.si_code, SI_QUEUE);
    EQUAL(seen.si_value.sival_int, 4711);
    handle_info(SIGUSR2, 0);
    CHECK(syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGUSR2) == 0);
    EQUAL(seen.si_code, SI_TKILL);
    handle_info(SIGCHLD, 0);
    pid_t child = fork();
    if (child == 0) _exit(5);
    while (last != SIGCHLD) t_sleep_ms(1);
    EQUAL(seen.si_code, CLD_EXITED);
    EQUAL(seen.si_pid, child);
    EQUAL(seen.si_status, 5);
    t_exits(child, 5);
}

static void masks_hold_signals_back(void) {
    handle(SIGUSR1, counter, 0);
    sigset_t set, old, pending;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    CHECK(sigprocmask(SIG_BLOCK, &set, &old) == 0);
    for (int i = 0; i < 3; i++) raise(SIGUSR1);
    EQUAL(count, 0);
    CHECK(sigpending(&pending) == 0 && sigismember(&pending, SIGUSR1) && !sigismember(&pending, SIGUSR2));
    CHECK(sigprocmask(SIG_SETMASK, &old, NULL) == 0);
    EQUAL(count, 1);
    sigfillset(&set);
    CHECK(sigprocmask(SIG_SETMASK, &set, NULL) == 0);
    CHECK(sigprocmask(SIG_SETMASK, NULL, &set) == 0);
    CHECK(!sigismember(&set, SIGKILL) && !sigismember(&set, SIGSTOP) && sigismember(&set, SIGTERM));
}

static int order[8], placed;
static void place(int number) { order[placed++ & 7] = number; }

static void real_time_signals_queue_in_order(void) {
    sigset_t set;
    sigfillset(&set);
    sigprocmask(SIG_BLOCK, &set, NULL);
    handle(SIGRTMIN + 1, place, 0);
    handle(SIGRTMIN + 2, place, 0);
    union sigval value = {0};
    CHECK(sigqueue(getpid(), SIGRTMIN + 2, value) == 0);
    CHECK(sigqueue(getpid(), SIGRTMIN + 1, value) == 0);
    CHECK(sigqueue(getpid(), SIGRTMIN + 1, value) == 0);
    siginfo_t info;
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, SIGRTMIN + 1);
    EQUAL(sigwaitinfo(&one, &info), SIGRTMIN + 1);
    sigemptyset(&set);
    /* Handlers nest: the last frame made is the first to run. */
    sigprocmask(SIG_SETMASK, &set, NULL);
    EQUAL(placed, 2);
    CHECK((order[0] == SIGRTMIN + 1) != (order[1] == SIGRTMIN + 1));
}

static void nested(int number) {
    static int depth;
    count++;
    if (number == SIGUSR1 && depth++ < 20) raise(SIGUSR1);
}

static void handlers_nest(void) {
    handle(SIGUSR1, nested, SA_NODEFER);
    raise(SIGUSR1);
    EQUAL(count, 21);
}

static void mask_check(int number) {
    sigset_t now;
    sigprocmask(SIG_BLOCK, NULL, &now);
    CHECK(sigismember(&now, SIGUSR1) && sigismember(&now, SIGHUP) && !sigismember(&now, SIGUSR2));
    count++;
}

static void the_mask_of_a_handler_is_its_own(void) {
    struct sigaction a = {.sa_handler = mask_check};
    sigaddset(&a.sa_mask, SIGHUP);
    CHECK(sigaction(SIGUSR1, &a, NULL) == 0);
    raise(SIGUSR1);
    EQUAL(count, 1);
    sigset_t now;
    sigprocmask(SIG_BLOCK, NULL, &now);
    CHECK(!sigismember(&now, SIGUSR1) && !sigismember(&now, SIGHUP));
}

static void one_shot_handlers_are_reset(void) {
    handle(SIGUSR1, counter, SA_RESETHAND);
    raise(SIGUSR1);
    struct sigaction a;
    sigaction(SIGUSR1, NULL, &a);
    CHECK(a.sa_handler == SIG_DFL);
}

static void alarm_after_us(long us) {
    struct itimerval timer = {.it_value = {us / 1000000, us % 1000000}};
    CHECK(setitimer(ITIMER_REAL, &timer, NULL) == 0);
}

static void a_read_is_interrupted_or_restarted(void) {
    int ends[2];
    char c;
    CHECK(pipe(ends) == 0);
    handle(SIGALRM, counter, 0);
    alarm_after_us(20000);
    FAILS(read(ends[0], &c, 1), EINTR);
    EQUAL(count, 1);
    handle(SIGALRM, counter, SA_RESTART);
    pid_t child = fork();
    if (child == 0) {
        t_sleep_ms(80);
        _exit(write(ends[1], "x", 1) != 1);
    }
    alarm_after_us(20000);
    EQUAL(read(ends[0], &c, 1), 1);
    EQUAL(count, 2);
    t_exits(child, 0);
}

static void sleeps_are_interrupted_and_tell_what_is_left(void) {
    handle(SIGALRM, counter, SA_RESTART);
    alarm_after_us(20000);
    struct timespec wanted = {2, 0}, left = {0};
    FAILS(nanosleep(&wanted, &left), EINTR);
    CHECK(left.tv_sec == 1 && left.tv_nsec > 500000000);
    alarm_after_us(20000);
    FAILS(pause(), EINTR);
    sigset_t none;
    sigemptyset(&none);
    alarm_after_us(20000);
    FAILS(sigsuspend(&none), EINTR);
    EQUAL(count, 3);
}

static void stop_and_continue_do_not_interrupt_a_sleep(void) {
    pid_t child = fork();
    if (child == 0) {
        int64_t start = t_now_ns();
        struct timespec wanted = {0, 150000000};
        int result = nanosleep(&wanted, NULL);
        _exit(!(result == 0 && t_now_ns() - start >= 150000000));
    }
    t_sleep_ms(20);
    kill(child, SIGSTOP);
    t_sleep_ms(20);
    kill(child, SIGCONT);
    t_exits(child, 0);
}

static void sigwait_takes_a_blocked_signal(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    struct timespec limit = {0, 20000000};
    siginfo_t info;
    FAILS(sigtimedwait(&set, &info, &limit), EAGAIN);
    pid_t child = fork();
    if (child == 0) {
        t_sleep_ms(20);
        kill(getppid(), SIGUSR1);
        _exit(0);
    }
    EQUAL(sigwaitinfo(&set, &info), SIGUSR1);
    EQUAL(info.si_pid, child);
    t_exits(child, 0);
}

static sigjmp_buf back;
static void jump(int number) { siglongjmp(back, number); }

static void a_fault_can_be_left_by_siglongjmp(void) {
    handle(SIGSEGV, jump, 0);
    char *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (volatile int i = 0; i < 500; i++) {
        if (sigsetjmp(back, 1) == 0) {
            *(volatile char *)page = 1;
            CHECK(!"reached");
        }
    }
    sigset_t now;
    sigprocmask(SIG_BLOCK, NULL, &now);
    CHECK(!sigismember(&now, SIGSEGV));
}

static volatile char *guarded;
static void open_page(int number, siginfo_t *info, void *context) {
    CHECK((char *)info->si_addr == guarded + 100);
    EQUAL(info->si_code, SEGV_ACCERR);
    ucontext_t *uc = context;
    CHECK(uc->uc_mcontext.gregs[REG_TRAPNO] == 14);
    CHECK(mprotect((void *)guarded, 4096, PROT_READ | PROT_WRITE) == 0);
    count++;
}

static void a_fault_can_be_mended_by_its_handler(void) {
    struct sigaction a = {.sa_sigaction = open_page, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &a, NULL);
    guarded = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 1; i <= 50; i++) {
        guarded[100] = i;
        EQUAL(count, i);
        EQUAL(guarded[100], i);
        mprotect((void *)guarded, 4096, PROT_NONE);
    }
}

static void leave(int number, siginfo_t *info, void *context) {
    seen = *info;
    siglongjmp(back, 1);
}

static void faults_tell_what_and_where(void) {
    struct sigaction a = {.sa_sigaction = leave, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &a, NULL);
    sigaction(SIGBUS, &a, NULL);
    if (sigsetjmp(back, 1) == 0) __asm__ volatile("movq $0x12345678, %%rax; movb $1, (%%rax)" ::: "rax", "memory");
    EQUAL(seen.si_code, SEGV_MAPERR);
    EQUAL(seen.si_addr, 0x12345678);
    /* Not canonical: the processor doesn't tell where. */
    if (sigsetjmp(back, 1) == 0) __asm__ volatile("movq $0x1234567812345678, %%rax; movb $1, (%%rax)" ::: "rax", "memory");
    EQUAL(seen.si_code, SI_KERNEL);
    EQUAL(seen.si_addr, 0);
    int fd = open("short", O_CREAT | O_RDWR, 0600);
    CHECK(ftruncate(fd, 100) == 0);
    char *file = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    file[50] = 1;
    seen.si_signo = 0;
    if (sigsetjmp(back, 1) == 0) *(volatile char *)(file + 5000) = 1;
    EQUAL(seen.si_signo, SIGBUS);
    EQUAL(seen.si_code, BUS_ADRERR);
    CHECK((char *)seen.si_addr == file + 5000);
}

static void skip_instruction(int number, siginfo_t *info, void *context) {
    seen = *info;
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 2;
    count++;
}

static void a_handler_may_move_the_instruction_pointer(void) {
    struct sigaction a = {.sa_sigaction = skip_instruction, .sa_flags = SA_SIGINFO};
    sigaction(SIGILL, &a, NULL);
    sigaction(SIGFPE, &a, NULL);
    __asm__ volatile("ud2" ::: "memory");
    EQUAL(count, 1);
    EQUAL(seen.si_code, ILL_ILLOPN);
    __asm__ volatile("xorl %%ecx, %%ecx; idivl %%ecx" ::: "eax", "ecx", "edx", "memory");
    EQUAL(count, 2);
    EQUAL(seen.si_code, FPE_INTDIV);
}

static char *alternate;
static void on_alternate(int number) {
    char here;
    if (&here >= alternate && &here < alternate + 65536) count++;
    stack_t now;
    sigaltstack(NULL, &now);
    if (now.ss_flags & SS_ONSTACK) count += 10;
    stack_t other = {.ss_sp = alternate, .ss_size = 65536};
    if (sigaltstack(&other, NULL) == -1 && errno == EPERM) count += 100;
    if (number == SIGSEGV) siglongjmp(back, 1);
}

static __attribute__((noinline)) int overflow(int depth) {
    volatile char room[4096];
    room[0] = depth;
    return (depth < 100000000 ? overflow(depth + 1) : 0) + room[0];
}

static void handlers_run_on_the_alternate_stack(void) {
    alternate = malloc(65536);
    stack_t stack = {.ss_sp = alternate, .ss_size = 65536}, now;
    CHECK(sigaltstack(&stack, NULL) == 0);
    handle(SIGUSR1, on_alternate, SA_ONSTACK);
    raise(SIGUSR1);
    EQUAL(count, 111);
    CHECK(sigaltstack(NULL, &now) == 0);
    EQUAL(now.ss_flags, 0);
    stack.ss_size = 100;
    FAILS(sigaltstack(&stack, NULL), ENOMEM);
}

static void a_stack_overflow_is_caught_on_the_alternate_stack(void) {
    alternate = malloc(65536);
    stack_t stack = {.ss_sp = alternate, .ss_size = 65536};
    CHECK(sigaltstack(&stack, NULL) == 0);
    handle(SIGSEGV, on_alternate, SA_ONSTACK);
    if (sigsetjmp(back, 1) == 0) overflow(0);
    EQUAL(count, 111);
}

static void an_overflow_without_a_stack_kills(void) {
    handle(SIGSEGV, counter, 0);
    pid_t child = fork();
    if (child == 0) _exit(overflow(0));
    t_dies(child, SIGSEGV);
}

static void ignored_and_default_signals(void) {
    signal(SIGUSR1, SIG_IGN);
    raise(SIGUSR1);
    raise(SIGURG);
    raise(SIGWINCH);
    raise(SIGCHLD);
    raise(SIGCONT);
    FAILS(sigaction(SIGKILL, &(struct sigaction){.sa_handler = SIG_IGN}, NULL), EINVAL);
    FAILS(sigaction(SIGSTOP, &(struct sigaction){.sa_handler = SIG_IGN}, NULL), EINVAL);
    FAILS(kill(getpid(), 65), EINVAL);
    FAILS(kill(0x3ffffff, 0), ESRCH);
    CHECK(kill(getpid(), 0) == 0);
}

static void a_fault_that_is_blocked_kills(void) {
    pid_t child = fork();
    if (child == 0) {
        handle(SIGSEGV, counter, 0);
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGSEGV);
        sigprocmask(SIG_BLOCK, &set, NULL);
        __asm__ volatile("movl $1, 8");
        _exit(0);
    }
    t_dies(child, SIGSEGV);
}

static void timers_interrupt_a_loop(void) {
    handle(SIGALRM, counter, 0);
    struct itimerval timer = {{0, 2000}, {0, 2000}};
    CHECK(setitimer(ITIMER_REAL, &timer, NULL) == 0);
    while (count < 20) {
    }
    memset(&timer, 0, sizeof timer);
    setitimer(ITIMER_REAL, &timer, NULL);
    handle(SIGVTALRM, counter, 0);
    count = 0;
    timer.it_value.tv_usec = 20000;
    setitimer(ITIMER_VIRTUAL, &timer, NULL);
    while (!count) {
    }
}

static void signals_between_processes_are_not_lost(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    long rounds = t_scaled(2000);
    pid_t parent = getpid(), child = fork();
    int number;
    if (child == 0) {
        for (long i = 0; i < rounds; i++) {
            sigwait(&set, &number);
            kill(parent, SIGUSR1);
        }
        _exit(0);
    }
    for (long i = 0; i < rounds; i++) {
        kill(child, SIGUSR1);
        sigwait(&set, &number);
    }
    t_exits(child, 0);
}

MAIN(CASE(handlers_run_and_return), CASE(the_sender_is_told), CASE(masks_hold_signals_back), CASE(real_time_signals_queue_in_order),
     CASE(handlers_nest), CASE(the_mask_of_a_handler_is_its_own), CASE(one_shot_handlers_are_reset), CASE(a_read_is_interrupted_or_restarted),
     CASE(sleeps_are_interrupted_and_tell_what_is_left), CASE(stop_and_continue_do_not_interrupt_a_sleep), CASE(sigwait_takes_a_blocked_signal),
     CASE(a_fault_can_be_left_by_siglongjmp), CASE(a_fault_can_be_mended_by_its_handler), CASE(faults_tell_what_and_where),
     CASE(a_handler_may_move_the_instruction_pointer), CASE(handlers_run_on_the_alternate_stack),
     CASE(a_stack_overflow_is_caught_on_the_alternate_stack), CASE(an_overflow_without_a_stack_kills), CASE(ignored_and_default_signals),
     CASE(a_fault_that_is_blocked_kills), CASE(timers_interrupt_a_loop), CASE(signals_between_processes_are_not_lost))

#include "t.h"
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/times.h>

static int64_t read_clock(clockid_t clock) {
    struct timespec t;
    CHECK(clock_gettime(clock, &t) == 0);
    CHECK(t.tv_nsec >= 0 && t.tv_nsec < 1000000000);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void clocks_run_forward(void) {
    clockid_t clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME, CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE, CLOCK_TAI};
    for (size_t i = 0; i < sizeof clocks / sizeof *clocks; i++) {
        int64_t last = read_clock(clocks[i]), first = last;
        for (int n = 0; n < 2000; n++) {
            int64_t now = read_clock(clocks[i]);
            CHECK(now >= last);
            last = now;
        }
        t_sleep_ms(12);
        CHECK(read_clock(clocks[i]) > first);
        struct timespec resolution;
        CHECK(clock_getres(clocks[i], &resolution) == 0 && resolution.tv_nsec > 0);
    }
    FAILS(clock_gettime(99, NULL), EINVAL);
}

static void the_system_call_and_the_library_agree(void) {
    for (int i = 0; i < 200; i++) {
        struct timespec one, two, three;
        clock_gettime(CLOCK_MONOTONIC, &one);
        CHECK(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &two) == 0);
        clock_gettime(CLOCK_MONOTONIC, &three);
        int64_t a = one.tv_sec * 1000000000ll + one.tv_nsec, b = two.tv_sec * 1000000000ll + two.tv_nsec,
                c = three.tv_sec * 1000000000ll + three.tv_nsec;
        CHECK(a <= b && b <= c);
    }
    struct timeval tv;
    struct timespec ts;
    CHECK(gettimeofday(&tv, NULL) == 0 && clock_gettime(CLOCK_REALTIME, &ts) == 0);
    CHECK(ts.tv_sec - tv.tv_sec <= 1 && time(NULL) - tv.tv_sec <= 1);
}

static void sleeps_last_as_long_as_asked(void) {
    for (int ms = 1; ms <= 64; ms *= 4) {
        int64_t start = t_now_ns();
        struct timespec wanted = {0, ms * 1000000};
        CHECK(nanosleep(&wanted, NULL) == 0);
        int64_t took = t_now_ns() - start;
        CHECK(took >= ms * 1000000ll);
        CHECK(took < ms * 1000000ll + 1000000000);
    }
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 20000000;
    if (until.tv_nsec >= 1000000000) until.tv_nsec -= 1000000000, until.tv_sec++;
    CHECK(clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &until, NULL) == 0);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    CHECK(now.tv_sec > until.tv_sec || (now.tv_sec == until.tv_sec && now.tv_nsec >= until.tv_nsec));
    struct timespec wrong = {0, 1000000000};
    FAILS(nanosleep(&wrong, NULL), EINVAL);
    EQUAL(clock_nanosleep(99, 0, &until, NULL), EINVAL);
}

static void processor_time_is_counted(void) {
    int64_t start = read_clock(CLOCK_PROCESS_CPUTIME_ID), thread = read_clock(CLOCK_THREAD_CPUTIME_ID), wall = t_now_ns();
    while (t_now_ns() - wall < 60000000) {
    }
    int64_t used = read_clock(CLOCK_PROCESS_CPUTIME_ID) - start;
    CHECK(used > 3000000 && used < 500000000);
    CHECK(read_clock(CLOCK_THREAD_CPUTIME_ID) - thread > 3000000);
    start = read_clock(CLOCK_PROCESS_CPUTIME_ID);
    t_sleep_ms(60);
    CHECK(read_clock(CLOCK_PROCESS_CPUTIME_ID) - start < 30000000);
    struct tms times_used;
    CHECK(times(&times_used) != (clock_t)-1);
    struct rusage usage;
    CHECK(getrusage(RUSAGE_SELF, &usage) == 0);
    CHECK(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec + usage.ru_utime.tv_sec > 0);
    CHECK(usage.ru_maxrss > 0);
}

static volatile sig_atomic_t ticks;
static void tick(int number, siginfo_t *info, void *context) {
    if (info->si_code == SI_TIMER && info->si_value.sival_int == 42) ticks++;
}

static void posix_timers_signal(void) {
    struct sigaction action = {.sa_sigaction = tick, .sa_flags = SA_SIGINFO};
    sigaction(SIGRTMIN, &action, NULL);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value.sival_int = 42};
    timer_t timer;
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
    struct itimerspec spec = {{0, 3000000}, {0, 3000000}};
    CHECK(timer_settime(timer, 0, &spec, NULL) == 0);
    int64_t until = t_now_ns() + 2000000000;
    while (ticks < 5 && t_now_ns() < until) pause();
    CHECK(ticks >= 5);
    CHECK(timer_gettime(timer, &spec) == 0 && spec.it_interval.tv_nsec == 3000000);
    CHECK(timer_getoverrun(timer) >= 0);
    CHECK(timer_delete(timer) == 0);
}

static void alarms_replace_each_other(void) {
    signal(SIGALRM, SIG_IGN);
    EQUAL(alarm(100), 0);
    EQUAL(alarm(50), 100);
    EQUAL(alarm(0), 50);
    EQUAL(alarm(0), 0);
    struct itimerval timer = {{0, 0}, {3, 0}}, found;
    CHECK(setitimer(ITIMER_REAL, &timer, NULL) == 0 && getitimer(ITIMER_REAL, &found) == 0);
    CHECK(found.it_value.tv_sec <= 3 && found.it_value.tv_sec >= 2);
}

static void many_sleepers_wake_in_time(void) {
    int64_t start = t_now_ns();
    for (int i = 0; i < 50; i++)
        if (fork() == 0) {
            t_sleep_ms(10 + i);
            _exit(0);
        }
    for (int i = 0; i < 50; i++) CHECK(wait(NULL) > 0);
    CHECK(t_now_ns() - start < 2000000000);
}

MAIN(CASE(clocks_run_forward), CASE(the_system_call_and_the_library_agree), CASE(sleeps_last_as_long_as_asked), CASE(processor_time_is_counted),
     CASE(posix_timers_signal), CASE(alarms_replace_each_other), CASE(many_sleepers_wake_in_time))

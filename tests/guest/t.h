/* What the guest tests share: checks that say where they failed, and a runner for the cases of one program.
 *
 * A program is a list of cases. Each case runs in a process of its own, so that one that dies takes nothing with it, and gives one line:
 *     ok NAME        skip NAME: why        FAIL NAME: how
 * A failed check says `FILE:LINE: what (errno)` and ends its process with status 1. The program's status is 0 only if nothing failed.
 *
 * The first lines of a program may tell its runner:  "// guest-only: why",  "// timeout: SECONDS",  "// flags: -mavx2". */
#ifndef UMLAUT_T_H
#define UMLAUT_T_H
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { T_FAILED = 1, T_SKIPPED = 77 };

__attribute__((format(printf, 1, 2))) static inline void t_say(const char *format, ...) {
    char line[512];
    va_list list;
    va_start(list, format);
    int n = vsnprintf(line, sizeof line - 1, format, list);
    va_end(list);
    if (n > (int)sizeof line - 2) n = sizeof line - 2;
    line[n] = '\n';
    if (write(1, line, n + 1) < 0) _exit(T_FAILED);
}

#define CHECK(what)                                                                             \
    do {                                                                                        \
        if (!(what)) {                                                                          \
            t_say("  %s:%d: %s (errno %d)", __FILE__, __LINE__, #what, errno);                  \
            _exit(T_FAILED);                                                                    \
        }                                                                                       \
    } while (0)

/* Two numbers are the same. */
#define EQUAL(found, wanted)                                                                                                    \
    do {                                                                                                                        \
        long long t_found = (long long)(found), t_wanted = (long long)(wanted);                                                 \
        if (t_found != t_wanted) {                                                                                              \
            t_say("  %s:%d: %s is %lld, not %s = %lld (errno %d)", __FILE__, __LINE__, #found, t_found, #wanted, t_wanted, errno); \
            _exit(T_FAILED);                                                                                                    \
        }                                                                                                                       \
    } while (0)

/* A call fails with this errno. */
#define FAILS(call, number)                                                                                                     \
    do {                                                                                                                        \
        errno = 0;                                                                                                              \
        long long t_found = (long long)(call);                                                                                  \
        if (t_found != -1 || errno != (number)) {                                                                               \
            t_say("  %s:%d: %s gave %lld, errno %d, not %s", __FILE__, __LINE__, #call, t_found, errno, #number);               \
            _exit(T_FAILED);                                                                                                    \
        }                                                                                                                       \
    } while (0)

__attribute__((format(printf, 1, 2), noreturn)) static inline void t_skip(const char *format, ...) {
    char why[256];
    va_list list;
    va_start(list, format);
    vsnprintf(why, sizeof why, format, list);
    va_end(list);
    t_say("  skipped: %s", why);
    _exit(T_SKIPPED);
}

/* Waits for a child; its status as wait(2) gives it. */
static inline int t_wait(pid_t child) {
    int status = -1;
    pid_t found;
    do found = waitpid(child, &status, 0);
    while (found < 0 && errno == EINTR);
    CHECK(found == child);
    return status;
}

/* Waits for a child that ends with this exit status. */
#define t_exits(child, wanted)                                        \
    do {                                                              \
        int t_status = t_wait(child);                                 \
        CHECK(WIFEXITED(t_status));                                   \
        EQUAL(WEXITSTATUS(t_status), wanted);                         \
    } while (0)

/* Waits for a child that dies by this signal. */
#define t_dies(child, wanted)                                         \
    do {                                                              \
        int t_status = t_wait(child);                                 \
        CHECK(WIFSIGNALED(t_status));                                 \
        EQUAL(WTERMSIG(t_status), wanted);                            \
    } while (0)

static inline int64_t t_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static inline void t_sleep_ms(long ms) {
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&t, &t) < 0 && errno == EINTR) {
    }
}

/* Counts are multiplied by UMLAUT_SCALE; "full" is 20. */
static inline long t_scaled(long count) {
    const char *scale = getenv("UMLAUT_SCALE");
    if (!scale) return count;
    if (!strcmp(scale, "full")) return count * 20;
    long n = atol(scale);
    return count * (n > 0 ? n : 1);
}

struct t_case {
    const char *name;
    void (*run)(void);
};
#define CASE(function) {#function, function}

static inline int t_main(const struct t_case *cases, size_t count) {
    int failed = 0;
    for (size_t i = 0; i < count; i++) {
        pid_t child = fork();
        if (child == 0) {
            cases[i].run();
            _exit(0);
        }
        int status = -1;
        pid_t found = waitpid(child, &status, 0);
        if (child < 0 || found != child)
            t_say("FAIL %s: fork or waitpid (errno %d)", cases[i].name, errno);
        else if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
            t_say("ok %s", cases[i].name);
        else if (WIFEXITED(status) && WEXITSTATUS(status) == T_SKIPPED)
            t_say("skip %s", cases[i].name);
        else if (WIFSIGNALED(status))
            t_say("FAIL %s: died by signal %d", cases[i].name, WTERMSIG(status));
        else
            t_say("FAIL %s: status %d", cases[i].name, WIFEXITED(status) ? WEXITSTATUS(status) : status);
        failed |= !(WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == T_SKIPPED));
    }
    return failed;
}

#define MAIN(...)                                                        \
    int main(void) {                                                     \
        static const struct t_case cases[] = {__VA_ARGS__};              \
        return t_main(cases, sizeof cases / sizeof cases[0]);            \
    }
#endif

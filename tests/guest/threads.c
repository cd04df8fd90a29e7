#include "t.h"
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static long counter, turn;
static __thread long own = 5;

static long futex(void *word, int operation, uint32_t value, const struct timespec *limit, void *other, uint32_t third) {
    return syscall(SYS_futex, word, operation, value, limit, other, third);
}

static void *add_under_lock(void *rounds) {
    for (long i = 0; i < (long)rounds; i++) {
        pthread_mutex_lock(&mutex);
        counter++;
        pthread_mutex_unlock(&mutex);
        own++;
    }
    return (void *)own;
}

static void a_mutex_excludes(void) {
    pthread_t threads[4];
    long rounds = t_scaled(20000);
    for (int i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, add_under_lock, (void *)rounds) == 0);
    for (int i = 0; i < 4; i++) {
        void *result;
        CHECK(pthread_join(threads[i], &result) == 0);
        EQUAL((long)result, 5 + rounds);
    }
    EQUAL(counter, 4 * rounds);
    EQUAL(own, 5);
}

static void *take_turns(void *parity) {
    for (int i = 0; i < 2000; i++) {
        pthread_mutex_lock(&mutex);
        while (turn % 2 != (long)parity) pthread_cond_wait(&changed, &mutex);
        turn++;
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&mutex);
    }
    return NULL;
}

static void a_condition_hands_over(void) {
    pthread_t threads[2];
    for (long i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, take_turns, (void *)i) == 0);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    EQUAL(turn, 4000);
}

static void *nothing(void *value) { return value; }

static void threads_come_and_go(void) {
    long count = t_scaled(500);
    for (long i = 0; i < count; i++) {
        pthread_t thread;
        void *result;
        CHECK(pthread_create(&thread, NULL, nothing, (void *)i) == 0);
        CHECK(pthread_join(thread, &result) == 0 && result == (void *)i);
    }
}

static void *sleep_on(void *word) {
    futex(word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
    return NULL;
}

static void many_threads_sleep_and_wake(void) {
    enum { COUNT = 60 };
    pthread_t threads[COUNT];
    uint32_t word = 0;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 65536);
    for (int i = 0; i < COUNT; i++) CHECK(pthread_create(&threads[i], &attributes, sleep_on, &word) == 0);
    long woken = 0;
    for (int i = 0; i < 5000 && woken < COUNT; i++) {
        woken += futex(&word, FUTEX_WAKE_PRIVATE, 7, NULL, NULL, 0);
        t_sleep_ms(1);
    }
    EQUAL(woken, COUNT);
    for (int i = 0; i < COUNT; i++) pthread_join(threads[i], NULL);
}

static void futexes_check_their_word_and_time_out(void) {
    uint32_t word = 5;
    FAILS(futex(&word, FUTEX_WAIT_PRIVATE, 4, NULL, NULL, 0), EAGAIN);
    struct timespec limit = {0, 30000000};
    int64_t start = t_now_ns();
    FAILS(futex(&word, FUTEX_WAIT_PRIVATE, 5, &limit, NULL, 0), ETIMEDOUT);
    CHECK(t_now_ns() - start >= 30000000);
    FAILS(futex((void *)8, FUTEX_WAIT_PRIVATE, 5, NULL, NULL, 0), EFAULT);
    FAILS(futex((char *)&word + 1, FUTEX_WAIT_PRIVATE, 5, NULL, NULL, 0), EINVAL);
    EQUAL(futex(&word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0), 0);
    FAILS(futex(&word, 99, 1, NULL, NULL, 0), ENOSYS);
    struct timespec absolute;
    clock_gettime(CLOCK_MONOTONIC, &absolute);
    absolute.tv_nsec += 20000000;
    if (absolute.tv_nsec >= 1000000000) absolute.tv_nsec -= 1000000000, absolute.tv_sec++;
    FAILS(futex(&word, FUTEX_WAIT_BITSET_PRIVATE, 5, &absolute, NULL, 1), ETIMEDOUT);
}

static void futexes_work_between_processes(void) {
    uint32_t *word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t child = fork();
    if (child == 0) {
        while (__atomic_load_n(word, __ATOMIC_SEQ_CST) == 0) futex(word, FUTEX_WAIT, 0, NULL, NULL, 0);
        _exit(*word);
    }
    t_sleep_ms(30);
    __atomic_store_n(word, 7, __ATOMIC_SEQ_CST);
    EQUAL(futex(word, FUTEX_WAKE, 10, NULL, NULL, 0), 1);
    t_exits(child, 7);
}

static void requeued_sleepers_wake_on_the_other_word(void) {
    static uint32_t words[2];
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) pthread_create(&threads[i], NULL, sleep_on, &words[0]);
    t_sleep_ms(50);
    EQUAL(futex(&words[0], FUTEX_CMP_REQUEUE_PRIVATE, 1, (void *)10, &words[1], 0), 3);
    EQUAL(futex(&words[0], FUTEX_WAKE_PRIVATE, 10, NULL, NULL, 0), 0);
    EQUAL(futex(&words[1], FUTEX_WAKE_PRIVATE, 10, NULL, NULL, 0), 2);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
}

static void *die_holding(void *lock) {
    pthread_mutex_lock(lock);
    return NULL;
}

static void robust_mutexes_tell_of_a_dead_owner(void) {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_t robust;
    pthread_mutex_init(&robust, &attributes);
    pthread_t thread;
    pthread_create(&thread, NULL, die_holding, &robust);
    pthread_join(thread, NULL);
    EQUAL(pthread_mutex_lock(&robust), EOWNERDEAD);
    EQUAL(pthread_mutex_consistent(&robust), 0);
    EQUAL(pthread_mutex_unlock(&robust), 0);
}

static void *pi_adder(void *lock) {
    for (int i = 0; i < 3000; i++) {
        if (pthread_mutex_lock(lock)) return (void *)1;
        counter++;
        pthread_mutex_unlock(lock);
    }
    return NULL;
}

static void priority_inheriting_mutexes_exclude(void) {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT);
    pthread_mutex_t lock;
    CHECK(pthread_mutex_init(&lock, &attributes) == 0);
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) pthread_create(&threads[i], NULL, pi_adder, &lock);
    for (int i = 0; i < 3; i++) {
        void *result;
        pthread_join(threads[i], &result);
        CHECK(result == NULL);
    }
    EQUAL(counter, 9000);
}

static void *tell_ids(void *out) {
    long *ids = out;
    ids[0] = getpid();
    ids[1] = syscall(SYS_gettid);
    return NULL;
}

static void threads_share_the_process_and_have_ids(void) {
    long ids[2];
    pthread_t thread;
    pthread_create(&thread, NULL, tell_ids, ids);
    pthread_join(thread, NULL);
    EQUAL(ids[0], getpid());
    CHECK(ids[1] != getpid());
    EQUAL(syscall(SYS_gettid), getpid());
}

static void *exit_all(void *unused) { exit(12); }

static void exit_of_one_ends_all(void) {
    pid_t child = fork();
    if (child == 0) {
        pthread_t thread;
        pthread_create(&thread, NULL, exit_all, NULL);
        for (;;) pause();
    }
    t_exits(child, 12);
}

static void *leave_late(void *unused) {
    t_sleep_ms(50);
    _exit(13);
}

static void the_leader_may_end_first(void) {
    pid_t child = fork();
    if (child == 0) {
        pthread_t thread;
        pthread_create(&thread, NULL, leave_late, NULL);
        pthread_exit(NULL);
    }
    t_exits(child, 13);
}

static volatile sig_atomic_t where;
static void note(int number) { where = syscall(SYS_gettid); }
static void *wait_for_signal(void *id) {
    *(volatile long *)id = syscall(SYS_gettid);
    while (!where) t_sleep_ms(1);
    return NULL;
}

static void a_signal_reaches_its_thread(void) {
    signal(SIGUSR1, note);
    volatile long id = 0;
    pthread_t thread;
    pthread_create(&thread, NULL, wait_for_signal, (void *)&id);
    while (!id) t_sleep_ms(1);
    pthread_kill(thread, SIGUSR1);
    pthread_join(thread, NULL);
    EQUAL(where, id);
}

static void *fork_in_thread(void *unused) {
    pid_t child = fork();
    if (child == 0) _exit(getpid() == syscall(SYS_gettid) ? 3 : 4);
    return (void *)(long)WEXITSTATUS(t_wait(child));
}

static void a_thread_may_fork(void) {
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, fork_in_thread, NULL);
    for (int i = 0; i < 4; i++) {
        void *result;
        pthread_join(threads[i], &result);
        EQUAL((long)result, 3);
    }
}

static void *cancelled(void *unused) {
    for (;;) pause();
    return unused;
}

static void a_thread_can_be_cancelled(void) {
    pthread_t thread;
    void *result;
    pthread_create(&thread, NULL, cancelled, NULL);
    t_sleep_ms(10);
    CHECK(pthread_cancel(thread) == 0 && pthread_join(thread, &result) == 0);
    CHECK(result == PTHREAD_CANCELED);
}

static void semaphores_between_processes(void) {
    sem_t *semaphores = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    sem_init(&semaphores[0], 1, 0);
    sem_init(&semaphores[1], 1, 0);
    pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < 1000; i++) {
            sem_wait(&semaphores[0]);
            sem_post(&semaphores[1]);
        }
        _exit(0);
    }
    for (int i = 0; i < 1000; i++) {
        sem_post(&semaphores[0]);
        sem_wait(&semaphores[1]);
    }
    t_exits(child, 0);
}

static void processors_can_be_asked_and_chosen(void) {
    cpu_set_t set;
    CHECK(sched_getaffinity(0, sizeof set, &set) == 0);
    CHECK(CPU_COUNT(&set) >= 1);
    unsigned cpu, node;
    CHECK(syscall(SYS_getcpu, &cpu, &node, NULL) == 0);
    CHECK(CPU_ISSET(cpu, &set));
    CHECK(sched_setaffinity(0, sizeof set, &set) == 0);
    CPU_ZERO(&set);
    FAILS(sched_setaffinity(0, sizeof set, &set), EINVAL);
    for (int i = 0; i < 100; i++) CHECK(sched_yield() == 0);
}

MAIN(CASE(a_mutex_excludes), CASE(a_condition_hands_over), CASE(threads_come_and_go), CASE(many_threads_sleep_and_wake),
     CASE(futexes_check_their_word_and_time_out), CASE(futexes_work_between_processes), CASE(requeued_sleepers_wake_on_the_other_word),
     CASE(robust_mutexes_tell_of_a_dead_owner), CASE(priority_inheriting_mutexes_exclude), CASE(threads_share_the_process_and_have_ids),
     CASE(exit_of_one_ends_all), CASE(the_leader_may_end_first), CASE(a_signal_reaches_its_thread), CASE(a_thread_may_fork),
     CASE(a_thread_can_be_cancelled), CASE(semaphores_between_processes), CASE(processors_can_be_asked_and_chosen))

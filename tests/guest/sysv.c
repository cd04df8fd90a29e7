/* System V shared memory, semaphores and messages. */
#define _GNU_SOURCE
#include "t.h"
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

union semun {
    int val;
    struct semid_ds *buf;
    unsigned short *array;
};

static void segments_are_shared_and_live_until_the_last_mapping(void) {
    int id = shmget(IPC_PRIVATE, 10000, IPC_CREAT | 0600);
    CHECK(id >= 0);
    char *at = shmat(id, NULL, 0);
    CHECK(at != (void *)-1 && at[0] == 0 && at[9999] == 0);
    struct shmid_ds ds;
    CHECK(shmctl(id, IPC_STAT, &ds) == 0);
    EQUAL(ds.shm_segsz, 10000);
    EQUAL(ds.shm_nattch, 1);
    EQUAL(ds.shm_cpid, getpid());
    EQUAL(ds.shm_perm.mode, 0600);
    pid_t child = fork();
    if (child == 0) {
        CHECK(shmctl(id, IPC_STAT, &ds) == 0 && ds.shm_nattch == 2);
        strcpy(at + 5000, "hello");
        char *ro = shmat(id, NULL, SHM_RDONLY);
        CHECK(ro != (void *)-1 && !strcmp(ro + 5000, "hello"));
        FAILS(mprotect(ro, 4096, PROT_READ | PROT_WRITE), EACCES);
        CHECK(shmdt(ro) == 0);
        _exit(0);
    }
    t_exits(child, 0);
    CHECK(!strcmp(at + 5000, "hello"));
    CHECK(shmctl(id, IPC_RMID, NULL) == 0);
    CHECK(shmctl(id, IPC_STAT, &ds) == 0);
    EQUAL(ds.shm_perm.mode, 0600 | SHM_DEST);
    at[0] = 1;
    CHECK(shmdt(at) == 0);
    FAILS(shmctl(id, IPC_STAT, &ds), EINVAL);
    FAILS(shmdt(at), EINVAL);
}

static void keys_find_what_is_there(void) {
    key_t key = 0x554d0000 + (getpid() & 0xffff);
    FAILS(shmget(key, 4096, 0600), ENOENT);
    int id = shmget(key, 4096, IPC_CREAT | IPC_EXCL | 0600);
    CHECK(id >= 0);
    EQUAL(shmget(key, 0, 0), id);
    FAILS(shmget(key, 4096, IPC_CREAT | IPC_EXCL | 0600), EEXIST);
    FAILS(shmget(key, 5000, 0), EINVAL);
    FAILS(shmget(IPC_PRIVATE, 0, IPC_CREAT | 0600), EINVAL);
    FAILS((long)shmat(id, (void *)1, 0), EINVAL);
    char *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    FAILS((long)shmat(id, page, 0), EINVAL);
    CHECK(shmat(id, page, SHM_REMAP) == page);
    CHECK(shmctl(id, IPC_RMID, NULL) == 0);
    FAILS(shmget(key, 0, 0), ENOENT);
    FAILS((long)shmat(99999, NULL, 0), EINVAL);
}

static int op(int id, int index, int change, int flags) {
    struct sembuf one = {index, change, flags};
    return semop(id, &one, 1);
}

static void semaphores_count(void) {
    int id = semget(IPC_PRIVATE, 3, IPC_CREAT | 0600);
    CHECK(id >= 0);
    union semun arg = {.val = 2};
    CHECK(semctl(id, 1, SETVAL, arg) == 0);
    EQUAL(semctl(id, 1, GETVAL), 2);
    EQUAL(semctl(id, 1, GETPID), getpid());
    CHECK(op(id, 1, -2, 0) == 0);
    FAILS(op(id, 1, -1, IPC_NOWAIT), EAGAIN);
    FAILS(op(id, 3, 1, 0), EFBIG);
    FAILS(op(id, 0, 32767, 0) || op(id, 0, 1, 0) ? -1 : 0, ERANGE);
    struct sembuf both[2] = {{1, 1, 0}, {2, -1, IPC_NOWAIT}};
    FAILS(semop(id, both, 2), EAGAIN);
    EQUAL(semctl(id, 1, GETVAL), 0);
    struct timespec soon = {0, 20000000};
    struct sembuf take = {1, -1, 0};
    FAILS(semtimedop(id, &take, 1, &soon), EAGAIN);
    pid_t child = fork();
    if (child == 0) _exit(op(id, 1, -1, 0) == 0 && op(id, 2, 0, 0) == 0 ? 0 : 1);
    while (semctl(id, 1, GETNCNT) != 1) t_sleep_ms(1);
    CHECK(op(id, 1, 1, 0) == 0);
    t_exits(child, 0);
    unsigned short all[3] = {7, 8, 9}, found[3];
    arg.array = all;
    CHECK(semctl(id, 0, SETALL, arg) == 0);
    arg.array = found;
    CHECK(semctl(id, 0, GETALL, arg) == 0 && !memcmp(all, found, sizeof all));
    child = fork();
    if (child == 0) {
        errno = 0;
        _exit(op(id, 1, 0, 0) == -1 && errno == EIDRM ? 0 : 1);
    }
    while (semctl(id, 1, GETZCNT) != 1) t_sleep_ms(1);
    CHECK(semctl(id, 0, IPC_RMID) == 0);
    t_exits(child, 0);
    FAILS(op(id, 0, 1, 0), EINVAL);
    FAILS(semget(IPC_PRIVATE, 0, IPC_CREAT | 0600), EINVAL);
}

static void what_a_dead_process_took_is_given_back(void) {
    int id = semget(IPC_PRIVATE, 1, IPC_CREAT | 0600);
    union semun arg = {.val = 3};
    CHECK(semctl(id, 0, SETVAL, arg) == 0);
    pid_t child = fork();
    if (child == 0) {
        CHECK(op(id, 0, -2, SEM_UNDO) == 0);
        EQUAL(semctl(id, 0, GETVAL), 1);
        kill(getpid(), SIGKILL);
    }
    t_dies(child, SIGKILL);
    EQUAL(semctl(id, 0, GETVAL), 3);
    CHECK(semctl(id, 0, IPC_RMID) == 0);
}

struct message {
    long type;
    char text[100];
};

static void messages_are_whole_and_chosen_by_type(void) {
    int id = msgget(IPC_PRIVATE, IPC_CREAT | 0600);
    CHECK(id >= 0);
    struct message m = {.type = 5};
    for (int type = 5; type >= 3; type--) {
        m.type = type;
        sprintf(m.text, "type %d", type);
        CHECK(msgsnd(id, &m, 10, 0) == 0);
    }
    struct msqid_ds ds;
    CHECK(msgctl(id, IPC_STAT, &ds) == 0);
    EQUAL(ds.msg_qnum, 3);
    EQUAL(ds.__msg_cbytes, 30);
    FAILS(msgrcv(id, &m, 5, 4, 0), E2BIG);
    EQUAL(msgrcv(id, &m, 5, 4, MSG_NOERROR), 5);
    CHECK(m.type == 4 && !memcmp(m.text, "type ", 5));
    EQUAL(msgrcv(id, &m, 100, -5, 0), 10);
    EQUAL(m.type, 3);
    EQUAL(msgrcv(id, &m, 100, 3, MSG_EXCEPT), 10);
    EQUAL(m.type, 5);
    FAILS(msgrcv(id, &m, 100, 0, IPC_NOWAIT), ENOMSG);
    m.type = 0;
    FAILS(msgsnd(id, &m, 1, 0), EINVAL);
    m.type = 1;
    static struct { long type; char text[8193]; } big = {1, ""};
    FAILS(msgsnd(id, &big, 8193, 0), EINVAL);
    CHECK(msgsnd(id, &big, 8192, 0) == 0 && msgsnd(id, &big, 8192, 0) == 0);
    FAILS(msgsnd(id, &m, 1, IPC_NOWAIT), EAGAIN);
    pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < 2; i++) CHECK(msgrcv(id, &big, 8192, 0, 0) == 8192);
        errno = 0;
        _exit(msgrcv(id, &m, 100, 9, 0) == -1 && errno == EIDRM ? 0 : 1);
    }
    /* Waits for the room that the child makes. */
    CHECK(msgsnd(id, &m, 1, 0) == 0);
    t_sleep_ms(50);
    CHECK(msgctl(id, IPC_RMID, NULL) == 0);
    int status = t_wait(child);
    CHECK(WIFEXITED(status));
    FAILS(msgsnd(id, &m, 1, 0), EINVAL);
}

static void strangers_are_refused(void) {
    if (getuid() != 0) t_skip("needs root");
    int shm = shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0640), sem = semget(IPC_PRIVATE, 1, IPC_CREAT | 0600);
    pid_t child = fork();
    if (child == 0) {
        CHECK(setgid(12345) == 0 && setuid(12345) == 0);
        FAILS((long)shmat(shm, NULL, 0), EACCES);
        FAILS(shmctl(shm, IPC_RMID, NULL), EPERM);
        FAILS(semctl(sem, 0, GETVAL), EACCES);
        FAILS(op(sem, 0, 1, 0), EACCES);
        _exit(0);
    }
    t_exits(child, 0);
    CHECK(shmctl(shm, IPC_RMID, NULL) == 0 && semctl(sem, 0, IPC_RMID) == 0);
}

MAIN(CASE(segments_are_shared_and_live_until_the_last_mapping), CASE(keys_find_what_is_there), CASE(semaphores_count),
     CASE(what_a_dead_process_took_is_given_back), CASE(messages_are_whole_and_chosen_by_type), CASE(strangers_are_refused))

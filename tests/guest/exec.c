#include "t.h"
#include <elf.h>
#include <pthread.h>
#include <sys/auxv.h>

/* The program runs itself: with a first argument it is the one that was executed. */
static char self[256];

static void run(char *const argv[], char *const envp[], int wanted) {
    pid_t child = fork();
    if (child == 0) {
        execve(self, argv, envp);
        _exit(100);
    }
    t_exits(child, wanted);
}

static void arguments_and_environment_arrive(void) {
    run((char *[]){"argv0", "arguments", "two words", "", NULL}, (char *[]){"A=1", "EMPTY=", NULL}, 0);
}

static void long_arguments_arrive(void) {
    enum { COUNT = 200, LENGTH = 1000 };
    char *argv[COUNT + 3] = {self, "long"};
    for (int i = 0; i < COUNT; i++) {
        argv[i + 2] = malloc(LENGTH + 1);
        memset(argv[i + 2], 'a' + i % 26, LENGTH);
        argv[i + 2][LENGTH] = 0;
    }
    argv[COUNT + 2] = NULL;
    run(argv, (char *[]){NULL}, 0);
}

static void too_long_arguments_are_refused(void) {
    char *big = malloc(200000);
    memset(big, 'x', 199999);
    big[199999] = 0;
    FAILS(execve(self, (char *[]){self, big, NULL}, (char *[]){NULL}), E2BIG);
}

static void descriptors_close_on_exec_or_stay(void) {
    CHECK(dup2(open("/dev/null", O_RDWR), 20) == 20);
    CHECK(dup3(20, 21, O_CLOEXEC) == 21);
    run((char *[]){self, "descriptors", NULL}, (char *[]){NULL}, 0);
}

static void handlers_are_reset_and_ignored_signals_stay(void) {
    signal(SIGUSR1, SIG_IGN);
    signal(SIGUSR2, exit);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    raise(SIGHUP);
    run((char *[]){self, "signals", NULL}, (char *[]){NULL}, 0);
}

static void *execute(void *unused) {
    (void)unused;
    execve(self, (char *[]){self, "pid", NULL}, (char *[]){NULL});
    _exit(100);
}

static void *idle(void *unused) {
    for (;;) pause();
    return unused;
}

static void a_thread_that_executes_becomes_the_process(void) {
    pid_t child = fork();
    if (child == 0) {
        pthread_t thread;
        for (int i = 0; i < 3; i++) pthread_create(&thread, NULL, idle, NULL);
        pthread_create(&thread, NULL, execute, NULL);
        for (;;) pause();
    }
    t_exits(child, 0);
}

static void wrong_files_are_refused(void) {
    FAILS(execve("missing", (char *[]){"x", NULL}, NULL), ENOENT);
    FAILS(execve("/", (char *[]){"x", NULL}, NULL), EACCES);
    int fd = open("plain", O_CREAT | O_WRONLY | O_TRUNC, 0644);
    CHECK(write(fd, "hello, this is no program at all", 32) == 32);
    close(fd);
    FAILS(execve("plain", (char *[]){"x", NULL}, NULL), EACCES);
    CHECK(chmod("plain", 0755) == 0);
    FAILS(execve("plain", (char *[]){"x", NULL}, NULL), ENOEXEC);
    FAILS(execve("plain/below", (char *[]){"x", NULL}, NULL), ENOTDIR);
    fd = open("empty", O_CREAT | O_WRONLY | O_TRUNC, 0755);
    close(fd);
    FAILS(execve("empty", (char *[]){"x", NULL}, NULL), ENOEXEC);
}

static void copy_of_self(const char *to, long length, void (*change)(unsigned char *)) {
    int in = open(self, O_RDONLY), out = open(to, O_CREAT | O_TRUNC | O_WRONLY, 0755);
    CHECK(in >= 0 && out >= 0);
    struct stat st;
    fstat(in, &st);
    if (length < 0 || length > st.st_size) length = st.st_size;
    unsigned char *bytes = malloc(st.st_size);
    long done = 0;
    while (done < st.st_size) {
        ssize_t n = read(in, bytes + done, st.st_size - done);
        CHECK(n > 0);
        done += n;
    }
    if (change) change(bytes);
    for (done = 0; done < length;) {
        ssize_t n = write(out, bytes + done, length - done);
        CHECK(n > 0);
        done += n;
    }
    close(in);
    close(out);
}

static void other_machine(unsigned char *b) { ((Elf64_Ehdr *)b)->e_machine = EM_AARCH64; }
static void absurd_headers(unsigned char *b) { ((Elf64_Ehdr *)b)->e_phnum = 0xfff0; }
static void absurd_offset(unsigned char *b) { ((Elf64_Ehdr *)b)->e_phoff = 0x7fffffffffff0000; }
static void wrapped_segment(unsigned char *b) {
    Elf64_Phdr *p = (Elf64_Phdr *)(b + ((Elf64_Ehdr *)b)->e_phoff);
    for (int i = 0; i < ((Elf64_Ehdr *)b)->e_phnum; i++)
        if (p[i].p_type == PT_LOAD) p[i].p_memsz = 0xfffffffffffff000;
}
static void kernel_entry(unsigned char *b) { ((Elf64_Ehdr *)b)->e_entry = 0xffffffff80000000; }

static void damaged_programs_are_refused_or_killed(void) {
    copy_of_self("whole", -1, NULL);
    pid_t child = fork();
    if (child == 0) {
        execv("whole", (char *[]){"whole", "pid", NULL});
        _exit(100);
    }
    t_exits(child, 0);
    void (*changes[])(unsigned char *) = {other_machine, absurd_headers, absurd_offset, wrapped_segment, kernel_entry};
    for (size_t i = 0; i < 5; i++) {
        copy_of_self("damaged", -1, changes[i]);
        child = fork();
        if (child == 0) {
            execv("damaged", (char *[]){"damaged", "pid", NULL});
            _exit(100);
        }
        int status = t_wait(child);
        CHECK(WIFSIGNALED(status) || WEXITSTATUS(status) == 100);
    }
    for (int length = 16; length < 70000; length = length * 3 + 1) {
        copy_of_self("short", length, NULL);
        child = fork();
        if (child == 0) {
            execv("short", (char *[]){"short", "pid", NULL});
            _exit(100);
        }
        int status = t_wait(child);
        CHECK(WIFSIGNALED(status) || WEXITSTATUS(status) == 100);
    }
}

static void scripts_run_their_interpreter(void) {
    char line[400];
    int n = snprintf(line, sizeof line, "#!%s script\nnothing\n", self);
    int fd = open("script", O_CREAT | O_TRUNC | O_WRONLY, 0755);
    CHECK(write(fd, line, n) == n);
    close(fd);
    pid_t child = fork();
    if (child == 0) {
        execv("./script", (char *[]){"ignored", "more", NULL});
        _exit(100);
    }
    t_exits(child, 0);
    fd = open("orphan", O_CREAT | O_TRUNC | O_WRONLY, 0755);
    CHECK(write(fd, "#!/no/such/interpreter\n", 23) == 23);
    close(fd);
    FAILS(execv("./orphan", (char *[]){"x", NULL}), ENOENT);
}

static void fexecve_runs_an_open_file(void) {
    int fd = open(self, O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    pid_t child = fork();
    if (child == 0) {
        syscall(SYS_execveat, fd, "", (char *[]){"x", "pid", NULL}, (char *[]){NULL}, 0x1000 /* AT_EMPTY_PATH */);
        _exit(100);
    }
    t_exits(child, 0);
}

static void a_file_that_runs_cannot_be_written(void) {
    copy_of_self("busy", -1, NULL);
    int ends[2];
    CHECK(pipe(ends) == 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[0], 0);
        execv("busy", (char *[]){"busy", "wait", NULL});
        _exit(100);
    }
    t_sleep_ms(100);
    FAILS(open("busy", O_WRONLY), ETXTBSY);
    CHECK(write(ends[1], "x", 1) == 1);
    t_exits(child, 0);
    int fd = open("busy", O_WRONLY);
    CHECK(fd >= 0);
    FAILS(execv("busy", (char *[]){"busy", NULL}), ETXTBSY);
}

static void the_auxiliary_vector_is_complete(void) {
    EQUAL(getauxval(AT_PAGESZ), 4096);
    CHECK(getauxval(AT_PHDR) && getauxval(AT_PHNUM) && getauxval(AT_ENTRY));
    CHECK(getauxval(AT_RANDOM) && getauxval(AT_EXECFN) && getauxval(AT_PLATFORM));
    EQUAL(getauxval(AT_CLKTCK), 100);
    EQUAL(getauxval(AT_SECURE), 0);
    EQUAL(getauxval(AT_UID), getuid());
    CHECK(getauxval(AT_MINSIGSTKSZ) >= 1024);
    CHECK(!strcmp((char *)getauxval(AT_PLATFORM), "x86_64"));
}

static void many_execs(void) {
    long count = t_scaled(100);
    for (long i = 0; i < count; i++) run((char *[]){self, "pid", NULL}, (char *[]){NULL}, 0);
}

/* What the executed program checks. */
static int executed(int argc, char **argv, char **envp) {
    if (argc == 4 && !strcmp(argv[1], "arguments"))
        return !(!strcmp(argv[0], "argv0") && !strcmp(argv[2], "two words") && !*argv[3] && !strcmp(envp[0], "A=1") && !strcmp(envp[1], "EMPTY=") && !envp[2]);
    if (!strcmp(argv[1], "long")) {
        if (argc != 202) return 1;
        for (int i = 0; i < 200; i++)
            if (strlen(argv[i + 2]) != 1000 || argv[i + 2][999] != 'a' + i % 26) return 2;
        return 0;
    }
    if (!strcmp(argv[1], "descriptors")) return !(fcntl(20, F_GETFD) == 0 && fcntl(21, F_GETFD) == -1 && errno == EBADF);
    if (!strcmp(argv[1], "signals")) {
        struct sigaction a;
        sigset_t set;
        if (sigaction(SIGUSR1, NULL, &a) || a.sa_handler != SIG_IGN) return 1;
        if (sigaction(SIGUSR2, NULL, &a) || a.sa_handler != SIG_DFL) return 2;
        if (sigprocmask(SIG_BLOCK, NULL, &set) || !sigismember(&set, SIGHUP)) return 3;
        return 0;
    }
    if (!strcmp(argv[1], "pid")) return getpid() != syscall(SYS_gettid);
    if (!strcmp(argv[1], "wait")) {
        char c;
        return read(0, &c, 1) != 1;
    }
    if (!strcmp(argv[1], "script")) return !(argc == 4 && !strcmp(argv[2], "./script") && !strcmp(argv[3], "more"));
    return 99;
}

int main(int argc, char **argv, char **envp) {
    if (argc > 1) return executed(argc, argv, envp);
    /* The path that we were started by may be relative to where we were. */
    snprintf(self, sizeof self, "%s", (char *)getauxval(AT_EXECFN));
    static const struct t_case cases[] = {
        CASE(arguments_and_environment_arrive), CASE(long_arguments_arrive), CASE(too_long_arguments_are_refused),
        CASE(descriptors_close_on_exec_or_stay), CASE(handlers_are_reset_and_ignored_signals_stay), CASE(a_thread_that_executes_becomes_the_process),
        CASE(wrong_files_are_refused), CASE(damaged_programs_are_refused_or_killed), CASE(scripts_run_their_interpreter),
        CASE(fexecve_runs_an_open_file), CASE(a_file_that_runs_cannot_be_written), CASE(the_auxiliary_vector_is_complete), CASE(many_execs)};
    return t_main(cases, sizeof cases / sizeof cases[0]);
}

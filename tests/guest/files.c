#include "t.h"
#include <dirent.h>
#include <limits.h>
#include <sys/file.h>
#include <sys/sendfile.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/xattr.h>

static int make(const char *name, const char *content) {
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);
    CHECK(fd >= 0);
    CHECK(write(fd, content, strlen(content)) == (ssize_t)strlen(content));
    return fd;
}

static void holds(const char *name, const char *wanted) {
    char found[256] = "";
    int fd = open(name, O_RDONLY);
    CHECK(fd >= 0);
    ssize_t n = read(fd, found, sizeof found - 1);
    close(fd);
    EQUAL(n, strlen(wanted));
    CHECK(!strcmp(found, wanted));
}

static void open_flags_mean_what_they_say(void) {
    unlink("new");
    FAILS(open("new", O_RDWR), ENOENT);
    int fd = open("new", O_RDWR | O_CREAT | O_EXCL, 0640);
    CHECK(fd >= 0);
    FAILS(open("new", O_RDWR | O_CREAT | O_EXCL, 0640), EEXIST);
    CHECK(write(fd, "hello", 5) == 5);
    close(fd);
    fd = open("new", O_WRONLY | O_TRUNC);
    struct stat st;
    CHECK(fstat(fd, &st) == 0);
    EQUAL(st.st_size, 0);
    char c;
    FAILS(read(fd, &c, 1), EBADF);
    close(fd);
    fd = open("new", O_RDONLY);
    FAILS(write(fd, "x", 1), EBADF);
    close(fd);
    FAILS(close(fd), EBADF);
    FAILS(open("new/below", O_RDONLY), ENOTDIR);
    FAILS(open("new", O_RDONLY | O_DIRECTORY), ENOTDIR);
    FAILS(open(".", O_RDWR), EISDIR);
    FAILS(open("", O_RDONLY), ENOENT);
    CHECK(symlink("new", "link") == 0 || errno == EEXIST);
    FAILS(open("link", O_RDONLY | O_NOFOLLOW), ELOOP);
    fd = open("link", O_PATH | O_NOFOLLOW);
    CHECK(fd >= 0);
    FAILS(read(fd, &c, 1), EBADF);
    EQUAL(fcntl(fd, F_GETFL) & O_PATH, O_PATH);
}

static void appends_go_to_the_end(void) {
    int fd = make("append", "abc"), one = open("append", O_WRONLY | O_APPEND), two = open("append", O_WRONLY | O_APPEND);
    CHECK(write(one, "1", 1) == 1 && write(two, "2", 1) == 1 && lseek(one, 0, SEEK_SET) == 0 && write(one, "3", 1) == 1);
    holds("append", "abc123");
    CHECK(fcntl(fd, F_SETFL, O_APPEND) == 0);
    CHECK(lseek(fd, 0, SEEK_SET) == 0 && write(fd, "4", 1) == 1);
    holds("append", "abc1234");
}

static void offsets_are_shared_by_copies_of_a_descriptor(void) {
    int fd = make("offset", "0123456789"), copy = dup(fd), other = open("offset", O_RDONLY);
    char c;
    EQUAL(lseek(fd, 3, SEEK_SET), 3);
    EQUAL(read(copy, &c, 1), 1);
    EQUAL(c, '3');
    EQUAL(lseek(fd, 0, SEEK_CUR), 4);
    EQUAL(read(other, &c, 1), 1);
    EQUAL(c, '0');
    pid_t child = fork();
    if (child == 0) _exit(lseek(fd, 2, SEEK_CUR) != 6);
    t_exits(child, 0);
    EQUAL(lseek(copy, 0, SEEK_CUR), 6);
    EQUAL(lseek(fd, -1, SEEK_END), 9);
    FAILS(lseek(fd, -11, SEEK_END), EINVAL);
    EQUAL(pread(fd, &c, 1, 5), 1);
    EQUAL(lseek(fd, 0, SEEK_CUR), 9);
}

static void truncation_cuts_and_extends(void) {
    int fd = make("truncate", "0123456789");
    CHECK(ftruncate(fd, 4) == 0);
    holds("truncate", "0123");
    CHECK(truncate("truncate", 6) == 0);
    char found[8];
    EQUAL(pread(fd, found, 8, 0), 6);
    CHECK(!memcmp(found, "0123\0\0", 6));
    FAILS(ftruncate(fd, -1), EINVAL);
    FAILS(truncate(".", 0), EISDIR);
    int reader = open("truncate", O_RDONLY);
    FAILS(ftruncate(reader, 0), EINVAL);
}

static void renames_replace_and_refuse(void) {
    close(make("a", "A"));
    close(make("b", "B"));
    CHECK(rename("a", "b") == 0);
    holds("b", "A");
    FAILS(open("a", O_RDONLY), ENOENT);
    FAILS(rename("a", "c"), ENOENT);
    CHECK(mkdir("d", 0755) == 0 && mkdir("d/e", 0755) == 0);
    FAILS(rename("d", "d/e/f"), EINVAL);
    FAILS(rename("b", "d"), EISDIR);
    FAILS(rename("d", "b"), ENOTDIR);
    CHECK(mkdir("empty", 0755) == 0);
    CHECK(rename("d", "empty") == 0);
    CHECK(mkdir("d", 0755) == 0);
    FAILS(rename("d", "empty"), 0 + ENOTEMPTY);
    close(make("c", "C"));
    FAILS(renameat2(AT_FDCWD, "b", AT_FDCWD, "c", RENAME_NOREPLACE), EEXIST);
    CHECK(renameat2(AT_FDCWD, "b", AT_FDCWD, "c", RENAME_EXCHANGE) == 0);
    holds("b", "C");
    holds("c", "A");
}

static void links_count(void) {
    int fd = make("one", "linked");
    CHECK(link("one", "two") == 0);
    struct stat st, other;
    CHECK(stat("two", &st) == 0 && fstat(fd, &other) == 0);
    EQUAL(st.st_nlink, 2);
    EQUAL(st.st_ino, other.st_ino);
    FAILS(link("one", "two"), EEXIST);
    CHECK(unlink("one") == 0);
    holds("two", "linked");
    CHECK(unlink("two") == 0);
    CHECK(fstat(fd, &st) == 0);
    EQUAL(st.st_nlink, 0);
    char found[6];
    EQUAL(pread(fd, found, 6, 0), 6);
    FAILS(unlink("two"), ENOENT);
    FAILS(link(".", "dot"), EPERM);
}

static void symbolic_links_are_followed(void) {
    close(make("target", "T"));
    char text[64];
    CHECK(symlink("target", "soft") == 0);
    holds("soft", "T");
    EQUAL(readlink("soft", text, sizeof text), 6);
    CHECK(!memcmp(text, "target", 6));
    EQUAL(readlink("soft", text, 3), 3);
    FAILS(readlink("target", text, 9), EINVAL);
    struct stat st;
    CHECK(lstat("soft", &st) == 0 && S_ISLNK(st.st_mode));
    EQUAL(st.st_size, 6);
    CHECK(symlink("nowhere", "dangling") == 0);
    FAILS(stat("dangling", &st), ENOENT);
    FAILS(open("dangling", O_CREAT | O_EXCL | O_RDWR, 0600), EEXIST);
    int fd = open("dangling", O_CREAT | O_RDWR, 0600);
    CHECK(fd >= 0 && access("nowhere", F_OK) == 0);
    CHECK(symlink("loop2", "loop1") == 0 && symlink("loop1", "loop2") == 0);
    FAILS(stat("loop1", &st), ELOOP);
    CHECK(mkdir("dir", 0755) == 0 && symlink("dir", "dirlink") == 0);
    CHECK(mkdir("dirlink/sub", 0755) == 0);
    CHECK(stat("dir/sub/../../target", &st) == 0);
    FAILS(rmdir("dirlink"), ENOTDIR);
}

static void directories_list_what_is_in_them(void) {
    CHECK(mkdir("list", 0755) == 0);
    char name[64], seen[300] = {0};
    for (int i = 0; i < 300; i++) {
        snprintf(name, sizeof name, "list/file-with-a-longer-name-%d", i);
        close(open(name, O_CREAT | O_WRONLY, 0644));
    }
    DIR *dir = opendir("list");
    struct dirent *entry;
    int dots = 0, n;
    while ((entry = readdir(dir))) {
        if (entry->d_name[0] == '.')
            dots++;
        else {
            CHECK(sscanf(entry->d_name, "file-with-a-longer-name-%d", &n) == 1);
            EQUAL(seen[n]++, 0);
            CHECK(entry->d_type == DT_REG || entry->d_type == DT_UNKNOWN);
        }
    }
    EQUAL(dots, 2);
    for (int i = 0; i < 300; i++) EQUAL(seen[i], 1);
    /* Removing while listing leaves nothing behind. */
    rewinddir(dir);
    while ((entry = readdir(dir)))
        if (entry->d_name[0] != '.') unlinkat(dirfd(dir), entry->d_name, 0);
    closedir(dir);
    CHECK(rmdir("list") == 0);
    char small[8];
    int fd = open(".", O_RDONLY);
    FAILS(syscall(SYS_getdents64, fd, small, sizeof small), EINVAL);
}

static void directories_are_made_and_removed(void) {
    CHECK(mkdir("m", 0755) == 0);
    FAILS(mkdir("m", 0755), EEXIST);
    FAILS(mkdir("x/y", 0755), ENOENT);
    CHECK(mkdir("m/n", 0755) == 0);
    FAILS(rmdir("m"), ENOTEMPTY);
    FAILS(rmdir("m/."), EINVAL);
    FAILS(unlink("m"), EISDIR);
    struct stat st;
    CHECK(stat("m", &st) == 0);
    EQUAL(st.st_nlink, 3);
    char before[PATH_MAX], after[PATH_MAX];
    CHECK(getcwd(before, sizeof before));
    CHECK(chdir("m/n") == 0 && getcwd(after, sizeof after));
    CHECK(!strncmp(after, before, strlen(before)) && !strcmp(after + strlen(before), "/m/n"));
    CHECK(rmdir("../n") == 0);
    FAILS(syscall(SYS_getcwd, after, sizeof after), ENOENT);
    FAILS(open("file", O_CREAT | O_RDWR, 0600), ENOENT);
    CHECK(chdir(before) == 0);
    FAILS(syscall(SYS_getcwd, after, 2), ERANGE);
    FAILS(chdir("nothing"), ENOENT);
}

static void sparse_files_have_holes(void) {
    int fd = open("sparse", O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(pwrite(fd, "x", 1, 1 << 20) == 1 && pwrite(fd, "y", 1, 3 << 20) == 1);
    struct stat st;
    CHECK(fstat(fd, &st) == 0);
    EQUAL(st.st_size, (3 << 20) + 1);
    CHECK(st.st_blocks < 1000);
    char c = 1;
    EQUAL(pread(fd, &c, 1, 1000), 1);
    EQUAL(c, 0);
    off_t data = lseek(fd, 0, SEEK_DATA);
    CHECK(data > 0 && data <= 1 << 20);
    off_t hole = lseek(fd, 1 << 20, SEEK_HOLE);
    CHECK(hole > 1 << 20 && hole < 3 << 20);
    EQUAL(lseek(fd, 3 << 20, SEEK_HOLE), (3 << 20) + 1);
    FAILS(lseek(fd, 4 << 20, SEEK_DATA), ENXIO);
    CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 1 << 20, 4096) == 0);
    EQUAL(pread(fd, &c, 1, 1 << 20), 1);
    EQUAL(c, 0);
    CHECK(fallocate(fd, 0, 4 << 20, 4096) == 0);
    CHECK(fstat(fd, &st) == 0);
    EQUAL(st.st_size, (4 << 20) + 4096);
}

static void vectors_of_buffers(void) {
    int fd = open("vector", O_RDWR | O_CREAT | O_TRUNC, 0600);
    struct iovec out[3] = {{"one", 3}, {"", 0}, {"twothree", 8}};
    EQUAL(writev(fd, out, 3), 11);
    char a[4] = "", b[20] = "";
    struct iovec in[2] = {{a, 3}, {b, 19}};
    EQUAL(preadv(fd, in, 2, 0), 11);
    CHECK(!strcmp(a, "one") && !strcmp(b, "twothree"));
    FAILS(writev(fd, out, 1025), EINVAL);
    FAILS(writev(fd, out, -1), EINVAL);
    EQUAL(pwritev(fd, out, 1, 100), 3);
}

static void descriptors_are_the_lowest_free(void) {
    int a = open("/dev/null", O_RDONLY), b = open("/dev/null", O_RDONLY), c = open("/dev/null", O_RDONLY);
    close(b);
    EQUAL(open("/dev/null", O_RDONLY), b);
    EQUAL(fcntl(a, F_DUPFD, 100), 100);
    EQUAL(fcntl(a, F_DUPFD_CLOEXEC, 100), 101);
    EQUAL(fcntl(101, F_GETFD), FD_CLOEXEC);
    EQUAL(dup2(a, a), a);
    FAILS(dup3(a, a, 0), EINVAL);
    FAILS(dup2(99, 50), EBADF);
    FAILS(dup2(a, 1 << 30), EBADF);
    EQUAL(dup2(c, 100), 100);
    CHECK(syscall(SYS_close_range, 100, 200, 0) == 0);
    FAILS(fcntl(100, F_GETFD), EBADF);
}

static void times_are_kept_and_set(void) {
    int fd = make("times", "t");
    struct stat before, after;
    CHECK(fstat(fd, &before) == 0);
    t_sleep_ms(20);
    CHECK(write(fd, "u", 1) == 1 && fstat(fd, &after) == 0);
    CHECK(after.st_mtim.tv_sec > before.st_mtim.tv_sec || after.st_mtim.tv_nsec > before.st_mtim.tv_nsec);
    struct timespec set[2] = {{1000, 1}, {2000, 2}};
    CHECK(futimens(fd, set) == 0 && fstat(fd, &after) == 0);
    EQUAL(after.st_atim.tv_sec, 1000);
    EQUAL(after.st_mtim.tv_sec, 2000);
    EQUAL(after.st_mtim.tv_nsec, 2);
    set[0].tv_nsec = UTIME_OMIT;
    set[1].tv_nsec = UTIME_NOW;
    CHECK(utimensat(AT_FDCWD, "times", set, 0) == 0 && fstat(fd, &after) == 0);
    EQUAL(after.st_atim.tv_sec, 1000);
    CHECK(after.st_mtim.tv_sec > 1000000);
}

static void modes_follow_the_umask(void) {
    umask(027);
    int fd = open("masked", O_CREAT | O_WRONLY, 0666);
    struct stat st;
    CHECK(fstat(fd, &st) == 0);
    EQUAL(st.st_mode, S_IFREG | 0640);
    CHECK(fchmod(fd, 04755) == 0 && fstat(fd, &st) == 0);
    EQUAL(st.st_mode, S_IFREG | 04755);
    CHECK(mkdir("masked.d", 0777) == 0 && stat("masked.d", &st) == 0);
    EQUAL(st.st_mode & 0777, 0750);
    EQUAL(umask(022), 027);
}

static void permissions_bind_ordinary_users(void) {
    if (geteuid() != 0) t_skip("needs root to become someone else");
    close(make("secret", "s"));
    close(make("public", "p"));
    CHECK(chmod("secret", 0600) == 0 && chmod("public", 0644) == 0 && mkdir("closed", 0700) == 0 && chmod(".", 0755) == 0);
    CHECK(mkdir("sticky", 0777) == 0 && chmod("sticky", 01777) == 0);
    close(make("sticky/roots", "r"));
    close(make("lent", "l"));
    CHECK(chown("lent", 1000, 1000) == 0 && chmod("lent", 0600) == 0);
    int here = open(".", O_RDONLY | O_DIRECTORY);
    pid_t child = fork();
    if (child == 0) {
        CHECK(fchdir(here) == 0);
        CHECK(setgid(1000) == 0 && setuid(1000) == 0);
        FAILS(openat(here, "secret", O_RDONLY), EACCES);
        FAILS(openat(here, "public", O_WRONLY), EACCES);
        FAILS(openat(here, "closed/x", O_RDONLY), EACCES);
        FAILS(openat(here, "mine", O_CREAT | O_WRONLY, 0600), EACCES);
        FAILS(unlinkat(here, "public", 0), EACCES);
        FAILS(unlinkat(here, "sticky/roots", 0), EPERM);
        FAILS(fchmodat(here, "public", 0666, 0), EPERM);
        FAILS(fchownat(here, "lent", 0, 0, 0), EPERM);
        CHECK(openat(here, "lent", O_RDWR) >= 0);
        CHECK(openat(here, "sticky/mine", O_CREAT | O_WRONLY, 0600) >= 0);
        FAILS(faccessat(here, "secret", R_OK, 0), EACCES);
        FAILS(mknodat(here, "sticky/node", S_IFCHR | 0666, makedev(1, 3)), EPERM);
        FAILS(chroot("."), EPERM);
        _exit(0);
    }
    t_exits(child, 0);
    CHECK(access("secret", R_OK | W_OK) == 0);
    FAILS(access("public", X_OK), EACCES);
    struct stat st;
    CHECK(chmod("lent", 06755) == 0 && chown("lent", 1001, 1001) == 0 && stat("lent", &st) == 0);
    EQUAL(st.st_mode & 07777, 0755);
}

static void names_have_their_limits(void) {
    char name[300];
    memset(name, 'n', sizeof name);
    name[255] = 0;
    int fd = open(name, O_CREAT | O_RDWR, 0600);
    CHECK(fd >= 0 && unlink(name) == 0);
    name[255] = 'n';
    name[256] = 0;
    FAILS(open(name, O_CREAT | O_RDWR, 0600), ENAMETOOLONG);
    char path[4200];
    for (int i = 0; i < 4200; i += 2) memcpy(path + i, "./", 2);
    path[4199] = 0;
    FAILS(open(path, O_RDONLY), ENAMETOOLONG);
    CHECK(open("\xff\xfe \n strange", O_CREAT | O_RDWR, 0600) >= 0);
    CHECK(open("trailing/", O_CREAT | O_RDWR, 0600) < 0 && errno == EISDIR);
}

static void locks_exclude(void) {
    int fd = make("locked", "0123456789");
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 2, .l_len = 3};
    CHECK(fcntl(fd, F_SETLK, &lock) == 0);
    int other = open("locked", O_RDWR);
    CHECK(flock(fd, LOCK_EX) == 0);
    FAILS(flock(other, LOCK_SH | LOCK_NB), EWOULDBLOCK);
    pid_t child = fork();
    if (child == 0) {
        struct flock wanted = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 4, .l_len = 1};
        FAILS(fcntl(fd, F_SETLK, &wanted), EAGAIN);
        CHECK(fcntl(fd, F_GETLK, &wanted) == 0);
        EQUAL(wanted.l_pid, getppid());
        wanted.l_type = F_WRLCK;
        wanted.l_start = 5;
        CHECK(fcntl(fd, F_SETLK, &wanted) == 0);
        wanted.l_start = 4;
        CHECK(fcntl(fd, F_SETLKW, &wanted) == 0);
        _exit(0);
    }
    t_sleep_ms(50);
    lock.l_type = F_UNLCK;
    CHECK(fcntl(fd, F_SETLK, &lock) == 0);
    t_exits(child, 0);
}

static void attributes_are_kept(void) {
    int fd = make("attributed", "");
    char value[16];
    if (fsetxattr(fd, "user.colour", "green", 5, 0) < 0 && errno == EOPNOTSUPP) t_skip("no user attributes on this file system");
    EQUAL(getxattr("attributed", "user.colour", value, sizeof value), 5);
    CHECK(!memcmp(value, "green", 5));
    FAILS(setxattr("attributed", "user.colour", "red", 3, XATTR_CREATE), EEXIST);
    FAILS(getxattr("attributed", "user.shape", value, 16), ENODATA);
    FAILS(getxattr("attributed", "user.colour", value, 2), ERANGE);
    CHECK(fremovexattr(fd, "user.colour") == 0);
    EQUAL(flistxattr(fd, NULL, 0), 0);
}

static void copying_between_descriptors(void) {
    int in = make("from", "0123456789"), out = open("to", O_RDWR | O_CREAT | O_TRUNC, 0600);
    off_t at = 2;
    EQUAL(sendfile(out, in, &at, 5), 5);
    EQUAL(at, 7);
    holds("to", "23456");
    loff_t from = 0, to = 5;
    EQUAL(copy_file_range(in, &from, out, &to, 3, 0), 3);
    holds("to", "23456012");
}

static void special_files(void) {
    char bytes[100];
    int fd = open("/dev/zero", O_RDWR);
    memset(bytes, 1, 100);
    EQUAL(read(fd, bytes, 100), 100);
    EQUAL(bytes[99], 0);
    fd = open("/dev/null", O_RDWR);
    EQUAL(write(fd, bytes, 100), 100);
    EQUAL(read(fd, bytes, 100), 0);
    fd = open("/dev/full", O_RDWR);
    FAILS(write(fd, bytes, 100), ENOSPC);
    fd = open("/dev/urandom", O_RDONLY);
    EQUAL(read(fd, bytes, 100), 100);
    struct stat st;
    CHECK(fstat(fd, &st) == 0 && S_ISCHR(st.st_mode));
    EQUAL(st.st_rdev, makedev(1, 9));
    if (geteuid() == 0) {
        CHECK(mknod("null", S_IFCHR | 0666, makedev(1, 3)) == 0);
        fd = open("null", O_RDWR);
        EQUAL(write(fd, bytes, 100), 100);
        CHECK(mknod("nodevice", S_IFCHR | 0666, makedev(250, 77)) == 0);
        FAILS(open("nodevice", O_RDONLY), ENXIO);
    }
}

static void file_systems_are_measured(void) {
    struct statfs fs;
    CHECK(statfs(".", &fs) == 0);
    CHECK(fs.f_bsize >= 512 && fs.f_blocks > 0 && fs.f_bfree <= fs.f_blocks && fs.f_namelen == 255);
}

static void statx_tells_what_was_asked(void) {
    int fd = make("statx", "12345");
    struct statx st;
    CHECK(statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &st) == 0);
    EQUAL(st.stx_size, 5);
    EQUAL(st.stx_mode & S_IFMT, S_IFREG);
    CHECK((st.stx_mask & STATX_BASIC_STATS) == STATX_BASIC_STATS);
    FAILS(statx(fd, "", 0, STATX_ALL, &st), ENOENT);
    FAILS(statx(-1, "missing", 0, STATX_ALL, &st), EBADF);
}

static void temporary_files_have_no_name(void) {
    int fd = open(".", O_TMPFILE | O_RDWR, 0600);
    CHECK(fd >= 0 && write(fd, "tmp", 3) == 3);
    struct stat st;
    CHECK(fstat(fd, &st) == 0);
    EQUAL(st.st_nlink, 0);
}

MAIN(CASE(open_flags_mean_what_they_say), CASE(appends_go_to_the_end), CASE(offsets_are_shared_by_copies_of_a_descriptor),
     CASE(truncation_cuts_and_extends), CASE(renames_replace_and_refuse), CASE(links_count), CASE(symbolic_links_are_followed),
     CASE(directories_list_what_is_in_them), CASE(directories_are_made_and_removed), CASE(sparse_files_have_holes), CASE(vectors_of_buffers),
     CASE(descriptors_are_the_lowest_free), CASE(times_are_kept_and_set), CASE(modes_follow_the_umask), CASE(permissions_bind_ordinary_users),
     CASE(names_have_their_limits), CASE(locks_exclude), CASE(attributes_are_kept), CASE(copying_between_descriptors), CASE(special_files),
     CASE(file_systems_are_measured), CASE(statx_tells_what_was_asked), CASE(temporary_files_have_no_name))

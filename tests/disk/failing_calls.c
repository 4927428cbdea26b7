/* Calls that change files below some directories fail on command. Loaded with LD_PRELOAD.

   FAULT_DIRECTORIES  directories, separated by colons, without a slash at the end
   FAULT_ERRNO        what the calls fail with
   FAULT_COUNTER      file of 32 bytes, shared by all processes: as 64-bit numbers how many such calls there were, the
                      first one that fails, the first one after it that does not, how many have failed

   A write that fails has written half of its bytes, as on a disk that fills up. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct counter { uint64_t calls, first, end, failed; };

static struct counter *counter;
static int error_number;
static char directories[8][PATH_MAX];
static int n_directories;

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

__attribute__((constructor)) static void set_up(void) {
    const char *path = getenv("FAULT_COUNTER"), *number = getenv("FAULT_ERRNO"), *list = getenv("FAULT_DIRECTORIES");
    if (!path || !number || !list) return;
    int file = REAL(open)(path, O_RDWR | O_CLOEXEC);
    if (file < 0) return;
    void *memory = mmap(NULL, sizeof *counter, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (memory == MAP_FAILED) return;
    error_number = atoi(number);
    char *copy = strdup(list);
    for (char *each = strtok(copy, ":"); each && n_directories < 8; each = strtok(NULL, ":"))
        strncpy(directories[n_directories++], each, PATH_MAX - 1);
    free(copy);
    counter = memory;
}

static int is_below(const char *path) {
    for (int i = 0; i < n_directories; i++) {
        size_t length = strlen(directories[i]);
        if (!strncmp(path, directories[i], length) && (path[length] == '/' || path[length] == 0)) return 1;
    }
    return 0;
}

static int is_ours(int file) {
    char link[64], path[PATH_MAX];
    if (!counter) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return is_below(path);
}

/* Count a call; whether it is one that fails. */
static int fails(void) {
    uint64_t number = __atomic_fetch_add(&counter->calls, 1, __ATOMIC_SEQ_CST);
    if (number < counter->first || number >= counter->end) return 0;
    __atomic_fetch_add(&counter->failed, 1, __ATOMIC_SEQ_CST);
    errno = error_number;
    return 1;
}

ssize_t write(int file, const void *data, size_t size) {
    if (!is_ours(file) || !fails()) return REAL(write)(file, data, size);
    if (size > 1) (void)!REAL(write)(file, data, size / 2);
    errno = error_number;
    return -1;
}

ssize_t pwrite(int file, const void *data, size_t size, off_t at) {
    if (!is_ours(file) || !fails()) return REAL(pwrite)(file, data, size, at);
    if (size > 1) (void)!REAL(pwrite)(file, data, size / 2, at);
    errno = error_number;
    return -1;
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t at) { return pwrite(file, data, size, at); }

int fsync(int file) { return is_ours(file) && fails() ? -1 : REAL(fsync)(file); }

int fdatasync(int file) { return is_ours(file) && fails() ? -1 : REAL(fdatasync)(file); }

int ftruncate(int file, off_t size) { return is_ours(file) && fails() ? -1 : REAL(ftruncate)(file, size); }

int ftruncate64(int file, off64_t size) { return ftruncate(file, size); }

int posix_fallocate(int file, off_t at, off_t size) {
    return is_ours(file) && fails() ? error_number : REAL(posix_fallocate)(file, at, size);
}

int posix_fallocate64(int file, off64_t at, off64_t size) { return posix_fallocate(file, at, size); }

int rename(const char *from, const char *to) {
    return counter && is_below(to) && fails() ? -1 : REAL(rename)(from, to);
}

int renameat(int from_folder, const char *from, int to_folder, const char *to) {
    return counter && is_below(to) && fails() ? -1 : REAL(renameat)(from_folder, from, to_folder, to);
}

int mkdir(const char *path, mode_t mode) {
    return counter && is_below(path) && fails() ? -1 : REAL(mkdir)(path, mode);
}

#define MODE(flags)                                     \
    mode_t mode = 0;                                    \
    if ((flags) & (O_CREAT | O_TMPFILE)) {              \
        va_list arguments;                              \
        va_start(arguments, flags);                     \
        mode = va_arg(arguments, mode_t);               \
        va_end(arguments);                              \
    }

static int refused(const char *path, int flags) { return (flags & O_CREAT) && counter && is_below(path) && fails(); }

int open(const char *path, int flags, ...) {
    MODE(flags)
    return refused(path, flags) ? -1 : REAL(open)(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    MODE(flags)
    return refused(path, flags) ? -1 : REAL(open64)(path, flags, mode);
}

int openat(int folder, const char *path, int flags, ...) {
    MODE(flags)
    return refused(path, flags) ? -1 : REAL(openat)(folder, path, flags, mode);
}

int openat64(int folder, const char *path, int flags, ...) {
    MODE(flags)
    return refused(path, flags) ? -1 : REAL(openat64)(folder, path, flags, mode);
}

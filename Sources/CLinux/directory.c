// SPDX-License-Identifier: Apache-2.0
//
// Directories of files that one process owns.
#define _GNU_SOURCE
#include "CLinux.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

int clinux_directory_open(const char *path) {
    const int flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
    const int descriptor = open(path, flags);
    return descriptor < 0 ? -errno : descriptor;
}

int clinux_listing_open(int directory, clinux_listing **listing) {
    // A description of its own: the place in the directory is the description's.
    const int descriptor = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) return -errno;
    DIR *stream = fdopendir(descriptor);
    if (stream == NULL) {
        const int error = errno;
        close(descriptor);
        return -error;
    }
    *listing = (clinux_listing *)stream;
    return 0;
}

int clinux_listing_next(clinux_listing *listing, const char **name) {
    DIR *stream = (DIR *)listing;
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(stream);
        if (entry == NULL) return -errno;
        *name = entry->d_name;
        if (entry->d_type == DT_REG) return 1;
        // Some file systems leave the kind of an entry to stat(2).
        if (entry->d_type != DT_UNKNOWN) continue;
        if (clinux_directory_byte_count(dirfd(stream), entry->d_name) >= 0) return 1;
    }
}

void clinux_listing_close(clinux_listing *listing) { (void)closedir((DIR *)listing); }

int64_t clinux_directory_byte_count(int directory, const char *name) {
    struct stat status;
    if (fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) != 0) return -errno;
    return S_ISREG(status.st_mode) ? (int64_t)status.st_size : -ENOENT;
}

static int reserve(int descriptor, uint64_t byte_count) {
    struct stat status;
    if (fstat(descriptor, &status) != 0) return -errno;
    int error;
    do {
        error = fallocate(descriptor, 0, 0, (off_t)byte_count) == 0 ? 0 : errno;
    } while (error == EINTR);
    if (error == 0) return fsync(descriptor) == 0 ? 0 : -errno;
    // A file system may have come a part of the way.
    if (ftruncate(descriptor, status.st_size) != 0) return -errno;
    return -error;
}

int clinux_directory_preallocate(int directory, const char *name, uint64_t byte_count) {
    if (byte_count > INT64_MAX) return -EFBIG;
    const int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW;
    int descriptor = openat(directory, name, flags | O_CREAT | O_EXCL, 0600);
    const bool created = descriptor >= 0;
    if (!created && errno == EEXIST) descriptor = openat(directory, name, flags);
    if (descriptor < 0) return -errno;
    // fallocate(2) refuses to reserve nothing.
    const int result = byte_count == 0 ? 0 : reserve(descriptor, byte_count);
    if (result != 0 && created) (void)unlinkat(directory, name, 0);
    (void)close(descriptor);
    return result;
}

int clinux_directory_remove(int directory, const char *name) {
    return unlinkat(directory, name, 0) == 0 ? 0 : -errno;
}

int clinux_directory_rename(int directory, const char *name, const char *new_name) {
    return renameat(directory, name, directory, new_name) == 0 ? 0 : -errno;
}

int clinux_directory_synchronize(int directory) { return fsync(directory) == 0 ? 0 : -errno; }

int64_t clinux_directory_free_byte_count(int directory) {
    struct statvfs status;
    if (fstatvfs(directory, &status) != 0) return -errno;
    const uint64_t byte_count = (uint64_t)status.f_bavail * status.f_frsize;
    return byte_count > INT64_MAX ? INT64_MAX : (int64_t)byte_count;
}

int clinux_directory_lock(int directory, const char *name) {
    const int descriptor = clinux_file_open_in(directory, name, CLINUX_OPEN_READ_WRITE);
    if (descriptor < 0) return descriptor;
    if (flock(descriptor, LOCK_EX | LOCK_NB) == 0) return descriptor;
    const int error = errno;
    close(descriptor);
    return -error;
}

void clinux_directory_unlock(int descriptor) { flock(descriptor, LOCK_UN); }

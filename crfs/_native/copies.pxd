from crfs._native.system cimport stat_t

cdef int copy(
    int source_fd, int dir_fd, const char *name, const char *mark, const void *value, size_t size,
    stat_t *info, bint *is_marked
) noexcept nogil
cdef int move_quietly(int work_fd, const char *staged, int dir_fd, const char *name) noexcept nogil

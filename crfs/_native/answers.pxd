cdef bint answer(int device, const char *request, size_t size) noexcept nogil

cdef bint answer(int device, char *request, size_t size) noexcept nogil

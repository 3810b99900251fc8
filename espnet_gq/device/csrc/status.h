/* Success, or a code with a sentence; the first failure counts. */
#ifndef GQ_ASR_STATUS_H
#define GQ_ASR_STATUS_H

#include "gq_asr.h"

namespace asr {

struct Status {
    int code = GQ_ASR_OK;
    char message[sizeof(gq_asr_error::message)] = "";

    bool ok() const { return code == GQ_ASR_OK; }

    /* Fail, unless it has failed before; arguments as printf's. Texts of a file must go
     * through quoted(). */
#if defined(__GNUC__)
    __attribute__((format(printf, 3, 4)))
#endif
    void fail(int code, const char *format, ...);
};

/* A text of a file or of a caller, to be shown in a message: at most 60 bytes of it, and
 * without control characters. */
struct Quoted {
    char text[72];
};
Quoted quoted(const char *text, size_t size);

}  // namespace asr

#endif

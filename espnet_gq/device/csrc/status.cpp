#include "status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

namespace asr {

void Status::fail(int failed, const char *format, ...) {
    if (!ok()) return;
    code = failed;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
}

Quoted quoted(const char *text, size_t size) {
    const size_t most = 60;
    Quoted found;
    size_t n = size < most ? size : most;
    while (n < size && n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80) --n;
    char *to = found.text;
    *to++ = '\'';
    for (size_t i = 0; i < n; ++i) {
        unsigned char c = (unsigned char)text[i];
        *to++ = c < 0x20 || c == 0x7f ? '?' : (char)c;
    }
    if (n < size) {
        memcpy(to, "...", 3);
        to += 3;
    }
    *to++ = '\'';
    *to = 0;
    return found;
}

}  // namespace asr

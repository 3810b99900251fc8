/* Compiling part of a file for an instruction set that the command line does not name.
 *
 * Functions between TARGET_BEGIN("avx2,fma") and TARGET_END may use these features. They
 * have internal linkage, so that the linker never takes one instruction set's copy for
 * another's; headers with functions of external linkage are included before.
 */
#ifndef ESPNET_GQ_TARGET_H
#define ESPNET_GQ_TARGET_H

#define GQ_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define TARGET_BEGIN(features)                                                         \
    GQ_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define TARGET_END GQ_PRAGMA(clang attribute pop)
#else
#define TARGET_BEGIN(features) GQ_PRAGMA(GCC push_options) GQ_PRAGMA(GCC target(features))
#define TARGET_END GQ_PRAGMA(GCC pop_options)
#endif

#define INLINE_MEMBER inline __attribute__((always_inline))
#define INLINE static INLINE_MEMBER

#endif

/* Hands wild pointers and lengths to every call, and lives to tell. */
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
static const unsigned long wild[] = {
    0, 1, 0xfff, 0x10000, 0x7ffffffff000, 0x7fffffffffff, 0x800000000000, 0xffff800000000000, 0xffffff8000000000, 0xffffff8000001000,
    0xfffffffffffff000, 0xffffffffffffffff, 0x8000000000000000,
};
#define COUNT (sizeof wild / sizeof *wild)
int main(void) {
    long tried = 0;
    for (long number = 0; number < 340; number++) {
        if (number == SYS_exit || number == SYS_exit_group || number == SYS_close || number == SYS_munmap || number == SYS_write) continue;
        if (number == SYS_brk || number == SYS_dup2 || number == SYS_kill || number == SYS_tkill || number == SYS_tgkill) continue;
        if (number == SYS_arch_prctl || number == SYS_dup3) continue;
        for (unsigned i = 0; i < COUNT; i++) {
            syscall(number, wild[i], wild[(i + 3) % COUNT], wild[(i + 5) % COUNT], wild[(i + 7) % COUNT], wild[(i + 9) % COUNT], wild[i]);
            syscall(number, 1L, wild[i], 64L, wild[i], 0L, 0L);
            tried += 2;
        }
    }
    printf("Content-Type: text/plain\n\n%ld alive\n", tried);
    return 0;
}

/* Tries every way to run bytes of its own making. Says "refused" for each that failed; must not survive running them. */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
static const unsigned char code[] = {0xb8, 42, 0, 0, 0, 0xc3};
static unsigned char data[8192];
int main(void) {
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    puts(page == MAP_FAILED ? "refused" : "mapped");
    page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(page, code, sizeof code);
    puts(mprotect(page, 4096, PROT_READ | PROT_EXEC) ? "refused" : "executable");
    puts(mprotect((void *)((unsigned long)main & -4096UL), 4096, PROT_READ | PROT_WRITE) ? "refused" : "writable");
    fflush(stdout);
    memcpy(data, code, sizeof code);
    return ((int (*)(void))(void *)data)();
}

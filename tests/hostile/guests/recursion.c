/* Recurses without end, with a frame that the compiler cannot remove. */
#include <string.h>
__attribute__((noinline)) static int deeper(volatile char *above, int depth) {
    volatile char here[512];
    here[0] = above[0] + 1;
    return deeper(here, depth + 1) + here[depth % 512];
}
int main(void) {
    volatile char first[1] = {1};
    return deeper(first, 0);
}

/* Logs without end. */
#include <stdio.h>
int main(void) {
    for (;;) fputs("a line of log that nobody wants to read a million times\n", stderr);
}

/* A well-behaved CGI program: environment, stdin, files, heap, floating point. */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static int by_value(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }

int main(int argc, char **argv) {
    char body[256] = "", line[64] = "", cwd[64];
    struct stat st;
    int numbers[1000], names = 0;
    size_t length = fread(body, 1, sizeof body - 1, stdin);
    FILE *file = fopen("templates/page.txt", "r");
    DIR *directory = opendir("templates");
    if (!file || !fgets(line, sizeof line, file) || stat("templates/page.txt", &st)) return 2;
    while (directory && readdir(directory)) names++;
    for (int i = 0; i < 1000; i++) numbers[i] = (i * 7919) % 1000;
    qsort(numbers, 1000, sizeof *numbers, by_value);
    char *big = malloc(1 << 20);
    memset(big, 'x', 1 << 20);
    big = realloc(big, 3 << 20);
    printf("Content-Type: text/plain\n\n");
    printf("%s %s %s %zu:%s\n", argc > 1 ? argv[1] : "-", getenv("REQUEST_METHOD"), getenv("GREETING"), length, body);
    printf("%s %ld %d %d %d %c %.6f\n", line, (long)st.st_size, names, numbers[0], numbers[999], big[1 << 19], sqrt(2.0));
    printf("%d %s %d\n", time(NULL) > 1600000000, getcwd(cwd, sizeof cwd), isatty(1));
    fprintf(stderr, "logged\n");
    free(big);
    return 0;
}

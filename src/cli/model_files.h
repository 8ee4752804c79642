/* --model FOLDER: the files of a model in a folder, by their names. */
#ifndef OMNI_CLI_MODEL_FILES_H
#define OMNI_CLI_MODEL_FILES_H

/* The files that a command wants; a path that is not NULL was given and stays. */
typedef struct model_files {
    const char *model, *mmproj, *talker;
    char *held[3]; /* model_files_free releases them */
} model_files;

enum { WANT_MMPROJ = 1, WANT_TALKER = 2 };

/* Where model names a folder, puts the thinker's file in it in its place, and, when wanted and not given, those of the encoders (a name
 * with "mmproj" in it) and of the talker ("talker"), where there are any; of a file in parts, the first. The folder may be one of a Hugging
 * Face cache (models--ORG--NAME), whose main snapshot is then looked through. Several candidates for one place are an error that lists them.
 * Returns -1 to go on, else the exit status, after reporting; also when model is NULL. */
int model_files_find(const char *command, unsigned want, model_files *f);
void model_files_free(model_files *f);

#endif

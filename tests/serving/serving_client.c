/* A client in C, as TensorFlow Serving loads a model: TF_LoadSessionFromSavedModel, then one run.
 *
 * Usage: serving_client SAVED_MODEL INPUT_OPERATION OUTPUT_OPERATION OUTPUT_INDEX N HEIGHT WIDTH CHANNELS
 *
 * Reads N images, uint8 [N, HEIGHT, WIDTH, CHANNELS], from standard input and writes the float32
 * output to standard output.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"

static void check(const TF_Status* status, const char* action) {
  if (TF_GetCode(status) != TF_OK) {
    fprintf(stderr, "%s: %s\n", action, TF_Message(status));
    exit(1);
  }
}

static TF_Output find(TF_Graph* graph, const char* name, int index) {
  TF_Output output = {TF_GraphOperationByName(graph, name), index};
  if (output.oper == NULL) {
    fprintf(stderr, "no operation %s\n", name);
    exit(1);
  }
  return output;
}

static TF_Tensor* read_images(char** dimensions) {
  int64_t shape[4];
  size_t size = 1;
  for (int i = 0; i < 4; ++i) {
    shape[i] = atoll(dimensions[i]);
    size *= shape[i];
  }
  TF_Tensor* images = TF_AllocateTensor(TF_UINT8, shape, 4, size);
  if (fread(TF_TensorData(images), 1, size, stdin) != size) {
    fprintf(stderr, "fewer than %zu bytes of images\n", size);
    exit(1);
  }
  return images;
}

int main(int argc, char** argv) {
  if (argc != 9) {
    fprintf(stderr, "9 arguments expected, got %d\n", argc);
    return 2;
  }
  TF_Status* status = TF_NewStatus();
  TF_Graph* graph = TF_NewGraph();
  TF_SessionOptions* options = TF_NewSessionOptions();
  const char* tags[] = {"serve"};
  TF_Session* session =
      TF_LoadSessionFromSavedModel(options, NULL, argv[1], tags, 1, graph, NULL, status);
  check(status, "loading");

  TF_Output input = find(graph, argv[2], 0);
  TF_Output output = find(graph, argv[3], atoi(argv[4]));
  TF_Tensor* images = read_images(argv + 5);
  TF_Tensor* result = NULL;
  TF_SessionRun(session, NULL, &input, &images, 1, &output, &result, 1, NULL, 0, NULL, status);
  check(status, "running");
  fwrite(TF_TensorData(result), 1, TF_TensorByteSize(result), stdout);

  TF_DeleteTensor(images);
  TF_DeleteTensor(result);
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  TF_DeleteSessionOptions(options);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  return 0;
}

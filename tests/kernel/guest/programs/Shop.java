import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.zip.Deflater;

/**
 * java -cp . Shop MIB DEFLATERS
 *
 * Holds a catalogue of MIB on the heap. A request makes garbage there, and compresses its answers with DEFLATERS at a
 * time on average, rarely with many more: about 256 KiB each that are not on the heap.
 */
public class Shop {
    public static void main(String[] arguments) throws InterruptedException {
        int mib = Integer.parseInt(arguments[0]), deflaters = Integer.parseInt(arguments[1]);
        Random random = new Random();
        List<byte[]> catalogue = new ArrayList<>();
        for (int i = 0; i < mib * 16; i++) catalogue.add(new byte[1 << 16]);
        byte[] answer = new byte[1 << 17], compressed = new byte[1 << 17];
        random.nextBytes(answer);
        while (!catalogue.isEmpty()) {
            for (int i = 0; i < 16; i++) catalogue.set(random.nextInt(catalogue.size()), new byte[1 << 16]);
            List<Deflater> open = new ArrayList<>();
            for (int n = (int) (-Math.log(1 - random.nextDouble()) * deflaters); n > 0; n--) {
                Deflater deflater = new Deflater();
                deflater.setInput(answer);
                deflater.deflate(compressed);
                open.add(deflater);
            }
            Thread.sleep(300);
            for (Deflater deflater : open) deflater.end();
        }
    }
}
